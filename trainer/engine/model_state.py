"""Saves and restores all that training changes in a model, wherever an engine keeps it."""

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
            scalars={home.name: home.scalars() for home in homes if home.has_state},
            loss_scale=loss_scale,
        )

    @torch.no_grad()
    def restore(self, saved: Saved, weights_from_masters: Callable[[], None]) -> None:
        """Collective: restores what snapshots of any engine saved, except for the loss scale.

        Raises CheckpointError if they belong to a different model.
        """
        saved.refuse_another_model(self._shapes())
        for frozen in self._frozen():
            saved.weights.read(frozen.name, frozen.start, frozen.values)
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
                home.forget_states()  # it had no state yet
        for home in homes:
            if (scalars := saved.scalars.get(home.name)) is not None:
                home.make_states(saved.keys, scalars)
                for key, values in home.states().items():
                    saved.states.read(state_name(key, home.name), home.start, values)

    def _shapes(self) -> dict[str, list[int]]:
        return zero.shapes(self._model, trained_alone=not self._keeps_frozen)

    def _frozen(self) -> list[zero.Frozen]:
        """The parameters that are saved although they are not trained."""
        return zero.frozen(self._model) if self._keeps_frozen else []

    def _own_share(self, part: zero.Home | zero.Frozen, name: str, values: Tensor) -> Fragment:
        """The elements of this part that this rank writes: all of them, or its share of what all ranks hold."""
        if not part.replicated:
            return Fragment(name, part.start, values)
        first, last = (
            values.numel() * rank // self._ranks.world_size for rank in (self._ranks.rank, self._ranks.rank + 1)
        )
        return Fragment(name, first, values[first:last])
