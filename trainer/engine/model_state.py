"""Saves and restores all that training changes in a model, wherever an engine keeps it."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine import zero_layout as zero
from shardtune.trainer.engine.snapshot import Fragment, Read, Saved, SavedTensors, Snapshot, state_name

_Part = tuple[zero.Home | zero.Frozen, str, Tensor]
"""Where a part of a tensor is kept, its name in files, and a view of its values."""


class ModelState:
    """Reads and writes this rank's part of a model: weights, optimizer states, buffers."""

    def __init__(
        self,
        model: nn.Module,
        homes: Callable[[], Sequence[zero.Home]],
        ranks: Ranks,
        *,
        keeps_frozen: bool,
    ) -> None:
        """With keeps_frozen, snapshots include what is not trained; without it, restore does not touch that."""
        self._model, self._homes, self._ranks, self._keeps_frozen = model, homes, ranks, keeps_frozen

    def snapshot(self, loss_scale: dict[str, float]) -> Snapshot:
        """Collective: returns this rank's part as views, which the next step overwrites."""
        homes = self._homes()
        weights = [self._own_share(home, home.name, home.master) for home in homes]
        weights += [self._own_share(frozen, frozen.name, frozen.values) for frozen in self._frozen()]
        if self._ranks.is_zero:
            weights += [Fragment(name, 0, values) for name, values in zero.buffers(self._model).items()]
        states = [
            self._own_share(home, state_name(key, home.name), values)
            for home in homes
            for key, values in home.states().items()
        ]
        return Snapshot(
            weights=[fragment for fragment in weights if fragment.values.numel()],
            states=[fragment for fragment in states if fragment.values.numel()],
            keys=sorted({key for home in homes for key in home.states()}),
            shapes=self._shapes(),
            scalars={home.name: home.scalars() for home in homes if home.has_state and self._is_first(home)},
            loss_scale=loss_scale,
        )

    @torch.no_grad()
    def restore(self, saved: Saved, weights_from_masters: Callable[[], None]) -> None:
        """Collective: restores what snapshots of any engine saved, except for the loss scale.

        Raises CheckpointError if they belong to a different model.
        """
        saved.refuse_another_model(self._shapes())
        buffers = zero.buffers(self._model)
        homes = self._homes()
        weights: list[_Part] = [(frozen, frozen.name, frozen.values) for frozen in self._frozen()]
        weights += [(home, home.name, home.master) for home in homes]
        self._read(saved.weights, weights, buffers)
        weights_from_masters()
        if saved.states is None:
            return
        for home in homes:
            if home.name not in saved.scalars:
                home.forget_states()  # it had no state yet
        states: list[_Part] = []
        for home in homes:
            if (scalars := saved.scalars.get(home.name)) is not None:
                home.make_states(saved.keys, scalars)
                states += [(home, state_name(key, home.name), values) for key, values in home.states().items()]
        self._read(saved.states, states, {})

    def _read(self, saved: SavedTensors, parts: Sequence[_Part], buffers: Mapping[str, Tensor]) -> None:
        """Collective: reads these parts from files. What all ranks hold is read by one of them, and sent to the others:
        each reads what it has saved itself, if the ranks are as many as then."""
        shares = [(values, self._own_share(part, name, values)) for part, name, values in parts if part.replicated]
        reads = [Read(name, part.start, values) for part, name, values in parts if not part.replicated]
        reads += [Read(share.name, share.start, share.values) for _, share in shares]
        reads += [Read(name, 0, values) for name, values in buffers.items() if self._ranks.is_zero]
        saved.read_together(reads, self._ranks)
        for values, share in shares:
            begin = 0
            for of_rank in self._ranks.gather_rows(share.values.to(self._ranks.device)):
                values[begin : begin + len(of_rank)].copy_(of_rank)
                begin += len(of_rank)
        for values in buffers.values():
            values.copy_(self._ranks.tensor_from_zero(values))

    def _shapes(self) -> dict[str, list[int]]:
        return zero.shapes(self._model, trained_alone=not self._keeps_frozen)

    def _frozen(self) -> list[zero.Frozen]:
        """The parameters that are saved although they are not trained."""
        return zero.frozen(self._model) if self._keeps_frozen else []

    def _is_first(self, home: zero.Home) -> bool:
        """Whether this rank tells the others of the states that a parameter has once, and not for each element."""
        return self._ranks.is_zero if home.replicated else home.start == 0

    def _own_share(self, part: zero.Home | zero.Frozen, name: str, values: Tensor) -> Fragment:
        """The elements of this part that this rank writes: all of them, or its share of what all ranks hold."""
        if not part.replicated:
            return Fragment(name, part.start, values)
        first, last = (
            values.numel() * rank // self._ranks.world_size for rank in (self._ranks.rank, self._ranks.rank + 1)
        )
        return Fragment(name, first, values[first:last])
