"""Plain data parallelism, by torch alone: every rank has the whole model.

For models that fit on a rank as a whole. Weights, their fp32 masters and the gradients lie in a few flat tensors, so
that an update is a handful of operations whatever the number of parameters. Gradients are exchanged in buckets while
the step's last backward pass still runs (exchange/buckets.py). CPU ranks of one machine share the weights and read each
other's gradients instead, and each updates a part. Of a large vocabulary's embedding, CPU ranks exchange only the rows
that the step has looked up.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn

from shardtune.trainer.distributed.gpu.host_copy import HostCopy
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.shared_memory import common_memory
from shardtune.trainer.engine import zero_layout as zero
from shardtune.trainer.engine.engine import StepStats, seed_step
from shardtune.trainer.engine.exchange.buckets import BUCKET_BYTES, GradientBuckets, Span, square_sum
from shardtune.trainer.engine.generation_beats import Beats
from shardtune.trainer.engine.model_state import ModelState
from shardtune.trainer.engine.regularize.groups import set_lr
from shardtune.trainer.engine.regularize.penalty import Fisher, Penalty
from shardtune.trainer.engine.snapshot import Saved, Snapshot
from shardtune.trainer.engine.stopwatch import Stopwatch
from shardtune.trainer.model.known_masks import masks_known
from shardtune.trainer.model.layer_drop import LayerDrop
from shardtune.trainer.model.load import generate
from shardtune.trainer.model.quantized.linear import num_quantized
from shardtune.trainer.tasks.batch import Batch

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""engine.precision -> dtype of weights and activations. fp16 needs a loss scale, which only DeepSpeed has."""
LARGE = 4096
"""Rows from which on an embedding has sparse gradients."""
ALIGNED = 64
"""A parameter's offset in a flat tensor is a multiple of this many elements: whole cache lines in any precision."""


@dataclass(frozen=True)
class _Flat:
    """Parameters of a group of the optimizer, flattened one behind another."""

    parameters: Sequence[nn.Parameter]
    offsets: Sequence[int]
    are_sparse: bool
    """Whether they are embeddings with gradients of the rows that were looked up only."""
    place: slice
    """Range among the elements of all flats."""
    own: slice
    """The range of its elements that this rank updates: all, or a part that no other rank updates."""
    weights: Tensor
    """The weights that the model computes with; shape (elements,)."""
    master: Tensor
    """fp32 weights of the own part, with the mean gradient in .grad; a view of the weights if these are fp32."""


class ReplicatedEngine:
    """The Engine of a recipe without DeepSpeed."""

    zero_stage = None

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        precision: str,
        max_grad_norm: float,
        ranks: Ranks,
        seed: int,
        keeps_frozen: bool = True,
        keeps_average: bool = False,
        exchanged_in: torch.dtype = torch.float32,
        bucket_bytes: int = BUCKET_BYTES,
        has_sparse_gradients: bool = True,
    ) -> None:
        """Collective. With keeps_frozen, snapshots include what is not trained; without it, restore keeps that. With
        keeps_average, restore takes the average of the weights that a checkpoint has.

        Gradients are exchanged in the dtype exchanged_in, bucket_bytes at once, by ranks without common memory. On
        CPUs, large embeddings have sparse gradients unless that is turned off: torch.compile knows none.
        """
        self._model = model.to(ranks.device)
        for parameter in model.parameters():  # not buffers: the frequencies of rotary positions stay exact
            parameter.data = parameter.data.to(DTYPES[precision])
        self._ranks, self._seed, self._max_grad_norm = ranks, seed, max_grad_norm
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self.num_parameters = num_quantized(model) + sum(parameter.numel() for parameter in model.parameters())
        self.num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.data, 0)
        # A GPU adds up rows in an arbitrary order, which a resumed run could not repeat.
        is_sparse = has_sparse_gradients and ranks.device.type == "cpu"
        self._sparse = _look_up_sparsely(model) if is_sparse else set()
        self._optimizer = make_optimizer(model)
        self._layer_drop = LayerDrop(model)
        self._left = 0
        self._penalty: Penalty | None = None
        self._is_skipped = False
        self._step_grads: dict[nn.Parameter, Tensor] = {}
        self._seen: set[nn.Parameter] = set()
        """Parameters that have a gradient in this step."""
        self._rows: dict[nn.Parameter, list[Tensor]] = {p: [] for p in model.parameters() if p in self._sparse}
        """The sparse gradients of this step's micro-batches."""
        self._looked_up: dict[nn.Parameter, Tensor] = {}
        """The rows whose gradients were not zero after the last step."""
        kinds = [
            (group, [p for p in group["params"] if (p in self._sparse) == are_sparse])
            for group in self._optimizer.param_groups
            for are_sparse in (False, True)
        ]
        self._grads_of_ranks, weights = self._memory(
            sum(_places(parameters)[-1] for _, parameters in kinds), DTYPES[precision]
        )
        self._is_shared = len(self._grads_of_ranks) > 1
        self._updates_unread = ranks.device.type == "cuda" and self._takes_scale
        self._flats: list[_Flat] = []
        for group in self._optimizer.param_groups:
            group["params"] = []
        begin = 0
        for group, parameters in kinds:
            if parameters:
                self._flats.append(self._flatten(parameters, begin, weights))
                group["params"].append(self._flats[-1].master)
                begin = self._flats[-1].place.stop
        self._buckets = GradientBuckets(self._spans(), self._grads, ranks, dtype=exchanged_in, num_bytes=bucket_bytes)
        self._meet()
        self._state = ModelState(model, self._homes, ranks, keeps_frozen=keeps_frozen, keeps_average=keeps_average)
        self._stopwatch = Stopwatch(model, ranks.device, sharded=False)

    def begin_step(self, number: int, *, num_micro_batches: int) -> None:
        seed_step(self._seed, number, self._ranks)
        self._layer_drop.begin_step(self._seed, number)
        self._model.train()
        self._stopwatch.start()
        self._left, self._is_skipped = num_micro_batches, num_micro_batches == 0
        self._seen.clear()
        self._buckets.begin()
        for parts in self._rows.values():
            parts.clear()

    def forward(self, batch: Batch) -> Any:
        with masks_known(batch):
            return self._model(**batch.arrived().inputs)

    def backward(self, loss_sum: Tensor, *, num_targets: float) -> None:
        # An infinite loss can have a finite gradient (that of a target with probability 0). It is made non-finite.
        (loss_sum * torch.where(loss_sum.detach().isfinite(), 1 / num_targets, math.nan)).backward()  # type: ignore[no-untyped-call]
        self._left -= 1
        if self._left == 0:
            for parameter in self._step_grads.keys() - self._seen - self._sparse:
                self._step_grads[parameter].zero_()  # the step's micro-batches did not pass through it
            self._buckets.launch_rest()  # not in step(): ranks that are asked to stop before it have to match, too

    @torch.no_grad()
    def step(self, *, lr: float) -> StepStats:
        assert self._left == 0, "engine.step() before the step's last micro-batch"
        if self._is_skipped:
            return StepStats(lr, math.nan, applied=False)
        self._exchange()
        set_lr(self._optimizer.param_groups, lr)
        square = square_sum([self._own_grad(flat) for flat in self._flats])
        norm = self._update_unread(square) if self._updates_unread else self._update(square)
        is_applied = math.isfinite(norm)
        compute_s = self._stopwatch.stop()  # after the norm, for which the host has waited anyway
        penalty = self._penalty.take() if self._penalty is not None and is_applied else None
        return StepStats(lr, norm if is_applied else math.inf, is_applied, compute_s, penalty)

    def hold_weights(self, fisher: Fisher | None = None) -> None:
        self._penalty = Penalty(self._homes(), self._ranks, dtype=self._flats[0].weights.dtype, fisher=fisher)

    def _update(self, square: Tensor) -> float:
        """Updates the weights unless the gradient, of this squared norm, is not finite; returns the norm."""
        own = float(square)
        norm = math.sqrt(self._ranks.sum(own)[0] if self._is_shared else own)
        if math.isfinite(norm):
            self._clip(norm)
            self._optimizer.step()
            self._weights_from_masters()
        return norm

    def _update_unread(self, square: Tensor) -> float:
        """As _update; the device itself leaves the weights as they are, and the host waits for the norm meanwhile."""
        norm = square.double().sqrt()
        copy = HostCopy(norm[None])
        optimizer: Any = self._optimizer
        if self._max_grad_norm:
            optimizer.grad_scale = ((norm + 1e-6) / self._max_grad_norm).clamp(min=1).float()
        optimizer.found_inf = norm.isfinite().logical_not().float()
        optimizer.step()
        self._weights_from_masters()
        return copy.read()[0]

    def average(self, decay: float) -> None:
        self._state.average(decay)

    @contextmanager
    def evaluating(self, *, averaged: bool = True) -> Iterator[None]:
        self._model.eval()
        try:
            with (
                torch.no_grad(),
                self._state.averaged(self._weights_from_masters, self._meet) if averaged else nullcontext(),
            ):
                yield
        finally:
            self._model.train()

    def gathered(self, module: nn.Module) -> Any:
        return nullcontext()

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        try:
            with (
                self._layer_drop.none_skipped(),
                torch.random.fork_rng([self._ranks.device] if self._ranks.device.type == "cuda" else []),
            ):
                yield
        finally:
            self._optimizer.state.clear()

    def generate(self, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        criteria = transformers.StoppingCriteriaList([Beats()])
        return generate(self._model, inputs, {**settings, "stopping_criteria": criteria})

    def snapshot(self) -> Snapshot:
        return self._state.snapshot({})

    def restore(self, saved: Saved) -> None:
        self._meet()
        self._state.restore(saved, self._weights_from_masters)

    def _memory(self, size: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
        """Collective: returns the fp32 gradients of all elements, of each rank or of this one only, and the weights."""
        if self._ranks.device.type == "cpu" and self._ranks.world_size > 1:
            room_for_weights = size * dtype.itemsize if self._ranks.is_zero else 0
            if (memory := common_memory(4 * size + room_for_weights, self._ranks)) is not None:
                return [part[: 4 * size].view(torch.float32) for part in memory], memory[0][4 * size :].view(dtype)
        device = self._ranks.device
        return [torch.zeros(size, device=device)], torch.zeros(size, dtype=dtype, device=device)

    def _flatten(self, parameters: Sequence[nn.Parameter], begin: int, all_weights: Tensor) -> _Flat:
        """Moves the parameters and their gradients into the flat tensors, from element `begin` on."""
        *offsets, size = _places(parameters)
        place, own = slice(begin, begin + size), self._own_part(size)
        weights, grads = all_weights[place], self._grads[place]
        for parameter, offset in zip(parameters, offsets, strict=True):
            view = weights[offset : offset + parameter.numel()].view(parameter.shape)
            parameter.data = view.copy_(parameter.data)
            self._step_grads[parameter] = grads[offset : offset + parameter.numel()].view(parameter.shape)
            parameter.register_post_accumulate_grad_hook(self._collect)  # type: ignore[no-untyped-call]
        master = weights[own] if weights.dtype == torch.float32 else weights[own].float()
        master.grad = grads[own]
        return _Flat(parameters, offsets, parameters[0] in self._sparse, place, own, weights, master)

    def _spans(self) -> list[Span]:
        """Places of the gradients that ranks send each other whole; empty if there is nobody to send them to."""
        if self._is_shared or self._ranks.world_size == 1:
            return []
        numbers = {parameter: number for number, parameter in enumerate(self._names)}
        return [
            Span(parameter, slice(flat.place.start + first, flat.place.start + last), numbers[parameter])
            for flat in self._flats
            if not flat.are_sparse
            for parameter, (first, last) in zip(flat.parameters, pairwise(_places(flat.parameters)), strict=True)
        ]

    @property
    def _grads(self) -> Tensor:
        """This rank's gradients of all flats, one behind another."""
        return self._grads_of_ranks[self._ranks.rank if self._is_shared else 0]

    def _own_grad(self, flat: _Flat) -> Tensor:
        return self._grads[flat.place][flat.own]

    def _own_part(self, size: int) -> slice:
        """The range of `size` elements that this rank updates."""
        num_parts, number = (self._ranks.world_size, self._ranks.rank) if self._is_shared else (1, 0)
        first, last = (size // ALIGNED * part // num_parts * ALIGNED for part in (number, number + 1))
        return slice(first, last)

    def _meet(self) -> None:
        """Collective: waits until no rank still reads what another is about to write."""
        if self._is_shared:
            self._ranks.barrier()

    def _collect(self, parameter: nn.Parameter) -> None:
        """Adds a micro-batch's gradient to that of the step, in fp32, as soon as it is computed."""
        grad, step_grad = parameter.grad, self._step_grads[parameter]
        assert grad is not None
        if parameter in self._sparse:
            # A model may also multiply by an embedding (DeBERTa's masked tokens): then all rows have a gradient.
            self._rows[parameter].append((grad if grad.is_sparse else grad.to_sparse(1)).float())
        elif parameter in self._seen:
            step_grad.add_(grad)
        else:
            step_grad.copy_(grad)
        self._seen.add(parameter)
        parameter.grad = None
        if self._left == 1:
            self._buckets.fill(parameter)

    def _exchange(self) -> None:
        """Collective: adds up the gradients of all ranks, for the parts that this rank updates."""
        self._buckets.finish()
        self._meet()
        for flat in self._flats:
            if flat.are_sparse:
                for parameter in flat.parameters:
                    self._exchange_rows(parameter)
            elif self._is_shared:
                grad = self._own_grad(flat)
                for rank, grads in enumerate(self._grads_of_ranks):
                    if rank != self._ranks.rank:
                        grad.add_(grads[flat.place][flat.own])

    def _exchange_rows(self, parameter: nn.Parameter) -> None:
        """Collective: adds up, on every rank, the gradients of the rows that the ranks have looked up."""
        grad, parts = self._step_grads[parameter], self._rows[parameter]
        if (before := self._looked_up.get(parameter)) is not None:
            grad.index_fill_(0, before, 0.0)
        rows, values = _merged(parts) if parts else (torch.empty(0, dtype=torch.int64), grad[:0])
        all_rows = self._ranks.gather_rows(rows)
        for rank_rows, rank_values in zip(all_rows, self._ranks.gather_rows(values), strict=True):
            grad.index_add_(0, rank_rows, rank_values)
        self._looked_up[parameter] = torch.cat(all_rows)

    def _clip(self, norm: float) -> None:
        """Clips as DeepSpeed does, so that both engines learn the same. A largest norm of 0 clips nothing."""
        if not self._max_grad_norm:
            return
        excess = max(1.0, (norm + 1e-6) / self._max_grad_norm)
        if self._takes_scale:
            self._optimizer.grad_scale = self._grads.new_tensor(excess)  # type: ignore[attr-defined]
            self._optimizer.found_inf = self._grads.new_zeros(())  # type: ignore[attr-defined]
        elif excess > 1:
            for flat in self._flats:
                self._own_grad(flat).div_(excess)

    @property
    def _takes_scale(self) -> bool:
        """Whether the optimizer divides the gradient in its step, and skips one that is infinite (for a GradScaler)."""
        return getattr(self._optimizer, "_step_supports_amp_scaling", False)

    def _weights_from_masters(self) -> None:
        for flat in self._flats:
            if flat.weights.dtype != torch.float32:
                flat.weights[flat.own].copy_(flat.master)
        self._meet()

    def _homes(self) -> list[zero.Home]:
        homes = []
        for flat in self._flats:
            for parameter, offset in zip(flat.parameters, flat.offsets, strict=True):
                first, last = max(offset, flat.own.start), min(offset + parameter.numel(), flat.own.stop)
                if first < last:
                    place = (first - offset, flat.master, first - flat.own.start, last - first)
                    name, replicated = self._names[parameter], not self._is_shared
                    homes.append(zero.Home(name, *place, self._optimizer, replicated=replicated))
        return homes


def _merged(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the rows that have a gradient, each once, and their gradients."""
    merged = sum(parts[1:], parts[0]).coalesce()
    return merged.indices()[0], merged.values()


def _look_up_sparsely(model: nn.Module) -> set[nn.Parameter]:
    """Switches large embeddings to gradients of the looked-up rows only, and returns their weights.

    Embeddings that share their weights, as with a language model's last layer, get a whole gradient anyway.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    weights: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings >= LARGE and owners[id(module.weight)] == 1:
            module.sparse = True
            weights.update(p for p in module.parameters() if p.requires_grad)
    return weights


def _places(parameters: Sequence[nn.Parameter]) -> list[int]:
    """The offset of each parameter in a flat tensor of all, and at the end the size of that tensor."""
    places = [0]
    for parameter in parameters:
        places.append(places[-1] + -(-parameter.numel() // ALIGNED) * ALIGNED)
    return places
