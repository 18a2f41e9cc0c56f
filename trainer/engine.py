"""How an optimizer step is computed over the ranks. The only module that knows DeepSpeed.

The loop speaks to the Engine protocol; which ZeRO stage, precision or offload is behind it changes nothing it can see.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.config.deepspeed import zero_stage
from trainer.data.batch import Batch
from trainer.model import generate
from trainer.ranks import Ranks

TAG = "engine"
"""The folder of DeepSpeed's files inside a checkpoint."""


@dataclass(frozen=True)
class StepStats:
    """What the engine knows of a step it has done."""

    lr: float
    grad_norm: float
    """2-norm of the gradient of the step's mean loss, over all parameters, before clipping."""
    applied: bool
    """False if fp16's loss scaling overflowed and the weights stayed as they were."""


class Engine(Protocol):
    """Computes steps. Everything but `num_parameters` is Collective: all ranks call it, in the same order."""

    num_parameters: int

    def begin_step(self, number: int, *, num_micro_batches: int) -> None:
        """Says how many forward and backward passes make up this step."""

    def forward(self, batch: Batch) -> Any:
        """The model's output."""

    def backward(self, loss_sum: Tensor, *, num_targets: float) -> None:
        """Adds to the gradient of the mean loss over the step's num_targets targets of all ranks."""

    def step(self, *, lr: float) -> StepStats:
        """Updates the weights once."""

    def evaluating(self) -> Any:
        """A context: no dropout, no gradients."""

    def generate(self, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """The token ids of the model's answers, without the prompts; shape (rows, longest answer)."""

    def save(self, folder: Path) -> None:
        """Writes all that is needed to go on into the folder."""

    def load(self, folder: Path) -> None:
        """Goes on from what save wrote."""

    def weights(self) -> dict[str, Tensor]:
        """The whole model's state dict on rank zero's CPU; an empty dict on the other ranks."""

    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Puts these whole weights into the model, for evaluation only: the optimizer's copies stay as they were."""


class DeepSpeedEngine:
    """ZeRO 0 to 3 by DeepSpeed.

    DeepSpeed is told that a step is one micro-batch, and then told at every pass whether it is the step's last: so a
    step may have any number of micro-batches, another one each time.
    """

    def __init__(
        self,
        model: nn.Module,
        ds_config: dict[str, Any],
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        ranks: Ranks,
        seed: int,
    ) -> None:
        import deepspeed

        self._ranks = ranks
        self._seed = seed
        self.zero_stage = zero_stage(ds_config)
        self._takes_norm_itself = self.zero_stage == 0 and not any(
            ds_config.get(precision, {}).get("enabled") for precision in ("bf16", "fp16")
        )
        self._left = 0
        self.num_parameters = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
        open_deepspeed()
        trained = [p for p in model.parameters() if p.requires_grad]
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=make_optimizer(model), model_parameters=trained, config=ds_config
        )

    def begin_step(self, number: int, *, num_micro_batches: int) -> None:
        # Dropout's random numbers follow from (seed, step, rank): nothing to save, and a resumed run repeats them.
        torch.manual_seed(((self._seed << 40) + (number << 16) + self._ranks.rank) % 2**63)
        self._engine.train()
        self._left = num_micro_batches
        self._engine.set_gradient_accumulation_boundary(self._left == 1)

    def forward(self, batch: Batch) -> Any:
        return self._engine(**batch.inputs)

    def backward(self, loss_sum: Tensor, *, num_targets: float) -> None:
        # DeepSpeed averages over the ranks; the gradient has to be the mean over all targets of all ranks.
        self._engine.backward(loss_sum * (self._ranks.world_size / num_targets))
        self._left -= 1
        if self._left:
            self._engine.step()  # between micro-batches: counts the pass, updates nothing
            self._engine.set_gradient_accumulation_boundary(self._left == 1)

    def step(self, *, lr: float) -> StepStats:
        assert self._left == 0, "engine.step() before the step's last micro-batch"
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        norm = self._own_grad_norm() if self._takes_norm_itself else None
        self._engine.step()
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        return StepStats(lr, float(norm) if norm is not None else float("nan"), self._engine.was_step_applied())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self._engine.eval()
        with torch.no_grad():
            yield
        self._engine.train()

    def generate(self, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        # Under ZeRO-3 each pass needs all ranks: one that is done goes on until all are.
        synced = self.zero_stage == 3 and self._ranks.world_size > 1
        return generate(self._engine.module, inputs, {**settings, "synced_gpus": synced})

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        self._engine.load_checkpoint(str(folder), tag=TAG, load_lr_scheduler_states=False)

    def weights(self) -> dict[str, Tensor]:
        model = self._engine.module
        if self.zero_stage < 3:
            state = model.state_dict() if self._ranks.is_zero else {}
            return {name: tensor.detach().cpu() for name, tensor in state.items()}
        whole = {}
        owned = dict(model.named_parameters(remove_duplicate=False))
        for name, tensor in [*owned.items(), *model.named_buffers()]:
            with self._gathered(tensor):
                if self._ranks.is_zero:
                    whole[name] = tensor.detach().cpu().clone()
        kept = model.state_dict().keys()  # leaves out buffers that are not persistent
        return {name: tensor for name, tensor in whole.items() if name in kept}

    @torch.no_grad()
    def set_weights(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in [*self._engine.module.named_parameters(), *self._engine.module.named_buffers()]:
            with self._gathered(tensor, writer=0):
                if name in weights and (self.zero_stage < 3 or self._ranks.is_zero):
                    tensor.copy_(weights[name])

    @contextmanager
    def _gathered(self, tensor: Tensor, writer: int | None = None) -> Iterator[None]:
        """Under ZeRO-3 a parameter is whole only in here; what rank `writer` writes is kept."""
        if not hasattr(tensor, "ds_id"):
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor], modifier_rank=writer):
            yield

    def optimizer_state_bytes(self) -> int:
        """Bytes of this rank's optimizer states: AdamW's two moments and, where it keeps one, the fp32 master copy."""
        optimizer = self._engine.optimizer
        inner = getattr(optimizer, "optimizer", optimizer)
        weights = {p.data_ptr() for p in self._engine.module.parameters()}
        tensors = {}
        for parameter, state in inner.state.items():
            for tensor in (parameter, *state.values()):
                if isinstance(tensor, Tensor) and tensor.data_ptr() not in weights:
                    tensors[tensor.data_ptr()] = tensor.nbytes
        return sum(tensors.values())

    def _own_grad_norm(self) -> float:
        # ZeRO-0 in fp32 reports none (DeepSpeed 0.19.8); its gradients are whole on every rank, and already averaged.
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))


def open_deepspeed() -> None:
    """Collective: makes DeepSpeed use the process group that there is."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # A shared-memory all-reduce that only DeepSpeed's inference calls; building it takes 100 s of every new machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)


def hold_ds_config(ds_config: dict[str, Any]) -> Any:
    """Collective: under ZeRO-3, what must be kept alive while from_pretrained runs, for parameters to be born sharded.

    (transformers.integrations.HfDeepSpeedConfig: its documentation calls this non-Trainer DeepSpeed integration.)
    """
    if zero_stage(ds_config) < 3:
        return None
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    open_deepspeed()  # or from_pretrained would, and have it build what open_deepspeed spares it
    return HfDeepSpeedConfig(ds_config)
