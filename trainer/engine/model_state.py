"""All that training changes, out of a model and back into it, wherever an engine keeps it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine import zero_layout as zero
from shardtune.trainer.engine.snapshot import Fragment, Saved, Snapshot, state_name


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
        """With keeps_frozen, snapshots have what is not trained too; without it, restore leaves that as it is."""
        self._model, self._homes, self._ranks, self._keeps_frozen = model, homes, ranks, keeps_frozen

    def snapshot(self, loss_scale: dict[str, float]) -> Snapshot:
        """Collective: views, which the next step overwrites."""
        homes = self._homes()
        weights = [self._written(its, its.name, its.master) for its in homes]
        weights += [self._written(its, its.name, its.values) for its in self._frozen()]
        if self._ranks.is_zero:
            weights += [Fragment(name, 0, values) for name, values in zero.buffers(self._model).items()]
        states = [
            self._written(its, state_name(key, its.name), values)
            for its in homes
            for key, values in its.states().items()
        ]
        return Snapshot(
            weights=[its for its in weights if its.values.numel()],
            states=[its for its in states if its.values.numel()],
            keys=sorted({key for its in homes for key in its.states()}),
            shapes=self._shapes(),
            scalars={its.name: its.scalars() for its in homes if its.has_state},
            loss_scale=loss_scale,
        )

    @torch.no_grad()
    def restore(self, saved: Saved, weights_from_masters: Callable[[], None]) -> None:
        """Collective: goes on from what snapshots of any engine held, but for the loss scale.

        Raises CheckpointError if they were of another model.
        """
        saved.refuse_another_model(self._shapes())
        for its in self._frozen():
            saved.weights.read(its.name, its.start, its.values)
        for name, values in zero.buffers(self._model).items():
            saved.weights.read(name, 0, values)
        homes = self._homes()
        for home in homes:
            saved.weights.read(home.name, home.start, home.master)
        weights_from_masters()
        if saved.states is None:
            return
        for home in homes:
            if home.name not in saved.scalars:
                home.forget_states()  # it had none yet
        for home in homes:
            if (scalars := saved.scalars.get(home.name)) is not None:
                home.make_states(saved.keys, scalars)
                for key, values in home.states().items():
                    saved.states.read(state_name(key, home.name), home.start, values)

    def _shapes(self) -> dict[str, list[int]]:
        return zero.shapes(self._model, trained_alone=not self._keeps_frozen)

    def _frozen(self) -> list[zero.Frozen]:
        """What is kept of what is not trained."""
        return zero.frozen(self._model) if self._keeps_frozen else []

    def _written(self, its: zero.Home | zero.Frozen, name: str, values: Tensor) -> Fragment:
        """What this rank writes of its part: of what all ranks have, its share."""
        if not its.replicated:
            return Fragment(name, its.start, values)
        first, last = (
            values.numel() * rank // self._ranks.world_size for rank in (self._ranks.rank, self._ranks.rank + 1)
        )
        return Fragment(name, first, values[first:last])
