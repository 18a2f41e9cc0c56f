"""The engine that computes an optimizer step over the ranks with DeepSpeed.

The loop uses the Engine protocol; ZeRO stage, precision and offload change nothing that it can see.
"""

import copy
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from typing import Any

import torch
import transformers
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from torch import Tensor, nn

from shardtune.ds_config.resolve import ds_config_of, has_own_ds_config, source_of, zero_stage
from shardtune.errors import ConfigError
from shardtune.recipe.explain import shown
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.rank_env import has_plain_gpu_numbers
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import StopAsked
from shardtune.trainer.engine import zero_layout as zero
from shardtune.trainer.engine.engine import StepStats, seed_step
from shardtune.trainer.engine.exchange.quantized import refuse_uneven_parts
from shardtune.trainer.engine.generation_beats import Beats
from shardtune.trainer.engine.model_state import ModelState
from shardtune.trainer.engine.regularize.groups import set_lr
from shardtune.trainer.engine.regularize.penalty import Fisher, Penalty
from shardtune.trainer.engine.snapshot import Saved, Snapshot
from shardtune.trainer.engine.stopwatch import Stopwatch
from shardtune.trainer.engine.zero_gradients import (
    Accumulation,
    forget_gradients,
    hand_over_gradients,
    refuse_old_versions,
)
from shardtune.trainer.model.experts import call_all_experts
from shardtune.trainer.model.known_masks import masks_known
from shardtune.trainer.model.layer_drop import LayerDrop
from shardtune.trainer.model.load import generate
from shardtune.trainer.model.quantized.linear import num_quantized
from shardtune.trainer.tasks.batch import Batch


class DeepSpeedEngine:
    """ZeRO 0 to 3 by DeepSpeed.

    DeepSpeed is configured for one micro-batch a step, and then told at every pass whether it is the step's last. So
    the number of micro-batches may differ from step to step.
    """

    def __init__(
        self,
        model: nn.Module,
        ds_config: dict[str, Any],
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        ranks: Ranks,
        seed: int,
        keeps_frozen: bool = True,
        keeps_average: bool = False,
        undivided: Sequence[nn.Module] = (),
    ) -> None:
        """With keeps_frozen, snapshots include what is not trained; without it, restore does not touch that. With
        keeps_average, restore takes the average of the weights that a checkpoint has.

        ZeRO-3 gathers the weights of each of the `undivided` modules at once, with those of all modules inside it.
        """
        import deepspeed

        self._ranks = ranks
        self._seed = seed
        self.zero_stage = zero_stage(ds_config)
        self._takes_norm_itself = self.zero_stage == 0 and not any(
            ds_config.get(precision, {}).get("enabled") for precision in ("bf16", "fp16")
        )
        self._left, self._is_skipped = 0, False
        self._penalty: Penalty | None = None
        self._layer_drop = LayerDrop(model)
        if self.zero_stage > 0 and ranks.world_size > 1:
            call_all_experts(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        self.num_parameters, self.num_trained = (
            sum(getattr(p, "ds_numel", p.numel()) for p in parameters) for parameters in (model.parameters(), trained)
        )
        self.num_parameters += num_quantized(model)
        if self.zero_stage == 3:
            _gather_at_once(model, undivided)
        open_deepspeed()
        self._accumulation = Accumulation(trained, ds_config)
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(model),
            model_parameters=trained,
            config=self._accumulation.ds_config,
        )
        self._accumulation.begin()
        refuse_uneven_parts(self._engine.module, ds_config)
        zero.undo_first_step(self._engine)
        self._state = ModelState(
            self._engine.module,
            lambda: zero.homes(self._engine),
            ranks,
            keeps_frozen=keeps_frozen,
            keeps_average=keeps_average,
        )
        self._stopwatch = Stopwatch(model, ranks.device, sharded=self.zero_stage == 3)

    def begin_step(self, number: int, *, num_micro_batches: int) -> None:
        seed_step(self._seed, number, self._ranks)
        self._layer_drop.begin_step(self._seed, number)
        self._engine.train()
        forget_gradients(self._engine)
        self._stopwatch.start()
        self._left, self._is_skipped = num_micro_batches, num_micro_batches == 0
        self._engine.set_gradient_accumulation_boundary(self._left == 1)

    def forward(self, batch: Batch) -> Any:
        with masks_known(batch):
            return self._engine(**batch.arrived().inputs)

    def backward(self, loss_sum: Tensor, *, num_targets: float) -> None:
        # DeepSpeed averages over the ranks; the gradient has to be the mean over all targets of all ranks.
        scale = self._ranks.world_size / num_targets
        if self._left == 1:
            self._accumulation.before_last()
        # An infinite loss can have a finite gradient (that of a target with probability 0). It is made non-finite:
        # all ranks see the gradient in step(), and no rank has to wait for its device here.
        self._engine.backward(loss_sum * torch.where(loss_sum.detach().isfinite(), scale, math.nan))
        self._left -= 1
        if self._left:
            self._engine.step()  # between micro-batches: counts the pass, updates nothing
            self._engine.set_gradient_accumulation_boundary(self._left == 1)

    def step(self, *, lr: float) -> StepStats:
        assert self._left == 0, "engine.step() before the step's last micro-batch"
        if self._is_skipped:
            return StepStats(lr, math.nan, applied=False)
        stats = replace(self._update(lr), compute_s=self._stopwatch.stop())
        return replace(stats, penalty=self._penalty.take()) if self._penalty is not None and stats.applied else stats

    def hold_weights(self, fisher: Fisher | None = None) -> None:
        dtype = next(p.dtype for p in self._engine.module.parameters() if p.requires_grad)
        self._penalty = Penalty(zero.homes(self._engine), self._ranks, dtype=dtype, fisher=fisher)

    def _update(self, lr: float) -> StepStats:
        set_lr(self._engine.optimizer.param_groups, lr)
        norm = self._own_grad_norm() if self._takes_norm_itself else None
        if norm is not None and not math.isfinite(norm):
            self._engine.zero_grad()  # the one layout in which DeepSpeed (0.19.8) does not check by itself
            return StepStats(lr, math.inf, applied=False)
        hand_over_gradients(self._engine)
        self._engine.step()
        if not self._engine.was_step_applied():
            return StepStats(lr, math.inf, applied=False)
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        return StepStats(lr, float(norm) if norm is not None else math.nan, applied=True)

    def average(self, decay: float) -> None:
        self._state.average(decay)

    @contextmanager
    def evaluating(self, *, averaged: bool = True) -> Iterator[None]:
        self._engine.eval()
        try:
            with (
                torch.no_grad(),
                self._state.averaged(self._weights_from_masters, lambda: None) if averaged else nullcontext(),
                self._passes_ended(),
            ):
                yield
        finally:
            self._engine.train()

    def gathered(self, module: nn.Module) -> Any:
        from deepspeed.zero import GatheredParameters

        return GatheredParameters(list(module.parameters(recurse=False)), enabled=self.zero_stage == 3)

    @contextmanager
    def _passes_ended(self) -> Iterator[None]:
        """Collective: drops what ZeRO-3 has fetched ahead for passes that never come.

        DeepSpeed (0.19.8) fetches ahead: generating ends with parameters in flight, and the next gather of them fails:
        "Cannot partition a param in flight". Not after an exception, unless all ranks have it: it waits for the other
        ranks, which may be elsewhere.
        """
        try:
            yield
        except StopAsked:
            self._drop_fetched()
            raise
        self._drop_fetched()

    def _drop_fetched(self) -> None:
        if self.zero_stage == 3:
            self._engine.empty_partition_cache()

    def _weights_from_masters(self) -> None:
        zero.weights_from_masters(self._engine)

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        scale = zero.loss_scale(self._engine)
        try:
            with (
                self._layer_drop.none_skipped(),
                torch.random.fork_rng([self._ranks.device] if self._ranks.device.type == "cuda" else []),
            ):
                yield
        finally:
            zero.forget_steps(self._engine)
            zero.set_loss_scale(self._engine, scale)

    def generate(self, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        # Under ZeRO-3 each pass needs all ranks: a rank that is done keeps running until all are.
        synced = self.zero_stage == 3 and self._ranks.world_size > 1
        criteria = transformers.StoppingCriteriaList([Beats()])
        return generate(self._engine.module, inputs, {**settings, "synced_gpus": synced, "stopping_criteria": criteria})

    def snapshot(self) -> Snapshot:
        return self._state.snapshot(zero.loss_scale(self._engine))

    def restore(self, saved: Saved) -> None:
        self._state.restore(saved, self._weights_from_masters)
        if saved.states is not None:
            zero.set_loss_scale(self._engine, saved.loss_scale)

    def optimizer_state_bytes(self) -> int:
        """Bytes of this rank's optimizer states: AdamW's two moments and the fp32 master copy, if there is one."""
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


def _gather_at_once(model: Any, modules: Sequence[nn.Module]) -> None:
    """Makes ZeRO-3 gather the weights of each module together with those of all modules inside it.

    DeepSpeed (0.19.8) takes the gradients of such a module when that of its inputs is there, or, if they have none, too
    early. With LoRA the first layer's input has a gradient only if it is asked for.
    """
    from deepspeed.utils import set_z3_leaf_module

    for module in modules:
        set_z3_leaf_module(module, True)
        module.register_forward_pre_hook(_refuse_without_gradient)
    if modules and not any(parameter.requires_grad for parameter in model.get_input_embeddings().parameters()):
        model.enable_input_require_grads()


def _refuse_without_gradient(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    has_gradient = any(isinstance(value, Tensor) and value.requires_grad for value in inputs)
    if module.training and torch.is_grad_enabled() and not has_gradient:
        raise ConfigError(
            f"engine.compile: {type(module).__name__} gets no input with a gradient, which ZeRO-3 needs for regional "
            "compilation; set engine.compile=off, or engine.deepspeed=zero2"
        )


def open_deepspeed() -> None:
    """Collective: makes DeepSpeed use the existing process group."""
    import deepspeed
    from deepspeed.accelerator import cuda_accelerator
    from deepspeed.runtime import bf16_optimizer
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # Stage 1 in bf16 (0.19.8) collects garbage six times to print how much memory it takes, which nobody has asked for.
    bf16_optimizer.see_memory_usage = lambda *_, **__: None
    if not has_plain_gpu_numbers():
        # To ask NVML for the free memory, 0.19.8 takes each name in CUDA_VISIBLE_DEVICES for a number, and ends at a
        # UUID; without NVML it asks torch.
        cuda_accelerator.pynvml = None
    # A shared-memory all-reduce that only DeepSpeed's inference calls; building it takes 100 s on every new machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)


@contextmanager
def sharded_birth(ds_config: dict[str, Any]) -> Iterator[None]:
    """Collective: under ZeRO-3, makes from_pretrained create parameters that are sharded from the start.

    (transformers.integrations.HfDeepSpeedConfig: its documentation calls this non-Trainer DeepSpeed integration. It
    counts for as long as the object is alive.)
    """
    if zero_stage(ds_config) < 3:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    open_deepspeed()  # or DeepSpeed would open itself when the first parameter is born, and build what is not needed
    alive = HfDeepSpeedConfig(ds_config)
    try:
        yield
    finally:
        del alive
        unset_hf_deepspeed_config()


def refuse_bad_ds_config(recipe: Recipe) -> None:
    """Raises ConfigError with a line for each value that DeepSpeed refuses in the recipe's own ds_config, and
    LaunchError if the DeepSpeed that the recipe needs is too old.

    Nothing is started. The strategies in ds_configs/ are tested instead.
    """
    if recipe.engine.deepspeed is not None:
        refuse_old_versions()
    if not has_own_ds_config(recipe):
        return
    ds_config = ds_config_of(recipe, hidden_size=None)
    assert ds_config is not None
    with _deepspeed_quiet():
        faults = [f"{source_of(recipe)}: {fault}" for fault in value_faults(ds_config)]
    if faults:
        raise ConfigError("\n".join(faults))


@contextmanager
def _deepspeed_quiet() -> Iterator[None]:
    """Keeps DeepSpeed from remarking on this machine, whose ranks may be elsewhere, and on the values."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):  # where its logger then writes, from the import on
            yield
    finally:
        logging.disable(before)


def value_faults(ds_config: Mapping[str, Any]) -> list[str]:
    """What DeepSpeed refuses in a resolved ds_config: all faults of its models, else the first that it finds itself."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    models: dict[str, Any] = {
        "zero_optimization": DeepSpeedZeroConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "compile": CompileConfig,
        "comms_logger": CommsLoggerConfig,
    }
    faults: list[str] = []
    for block, model in models.items():
        try:
            model(**ds_config.get(block, {}))
        except ValidationError as error:
            faults += [_in_words(block, detail) for detail in error.errors(include_url=False)]
        except (AssertionError, TypeError, ValueError) as error:
            faults.append(f"{block}: {_one_line(error)}")
    if faults:
        return faults
    try:
        DeepSpeedConfig(copy.deepcopy(dict(ds_config)))
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError, DeepSpeedConfigError) as error:
        return [f"DeepSpeed refuses it: {_one_line(error)}"]
    return []


def _in_words(block: str, detail: ErrorDetails) -> str:
    """`zero_optimization.stage: input should be …, got 7` for one fault that pydantic found."""
    key = ".".join(str(step) for step in (block, *detail["loc"]))
    found = f", got {shown(detail['input'])}" if detail["loc"] else ""
    what = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").removeprefix(f"{key} ")
    return f"{key}: {what[:1].lower()}{what[1:]}{found}"


def _one_line(error: Exception) -> str:
    return " ".join(f"{error}".split()) or type(error).__name__
