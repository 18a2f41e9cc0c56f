"""Saves and restores all that training changes in a model, wherever an engine keeps it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import StopAsked
from shardtune.trainer.engine import zero_layout as zero
from shardtune.trainer.engine.snapshot import Fragment, Read, Saved, SavedTensors, Snapshot, state_name
from shardtune.trainer.engine.states.names import AVERAGE, RAW
from shardtune.trainer.engine.states.weight_average import Owner, exchange_average, forget_average, update_average

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
        keeps_average: bool = False,
    ) -> None:
        """With keeps_frozen, snapshots include what is not trained; without it, restore does not touch that.

        With keeps_average, restore takes the average of the weights that a checkpoint has; without it, drops that.
        """
        self._model, self._homes, self._ranks, self._keeps_frozen = model, homes, ranks, keeps_frozen
        self._keeps_average = keeps_average
        self._is_averaged = False
        """Whether there is an average by now; the same on every rank, of which some may have no weights."""

    def average(self, decay: float) -> None:
        """Moves the average of the weights towards them by 1 - decay. All ranks call it, after a step."""
        update_average(self._owners, decay)
        self._is_averaged = True

    @contextmanager
    def averaged(self, weights_from_masters: Callable[[], None], meet: Callable[[], None]) -> Iterator[None]:
        """Collective: the model has the average of its weights meanwhile, if there is one; `meet` waits for all ranks.

        They are put back also when all ranks are asked to stop, but after no other exception, which may be that of a
        single rank.
        """
        if not self._is_averaged:
            yield
            return
        self._exchange(weights_from_masters, meet)
        try:
            yield
        except StopAsked:
            self._exchange(weights_from_masters, meet)
            raise
        self._exchange(weights_from_masters, meet)

    def _exchange(self, weights_from_masters: Callable[[], None], meet: Callable[[], None]) -> None:
        meet()
        exchange_average(self._owners)
        weights_from_masters()

    @cached_property
    def _owners(self) -> list[Owner]:
        """What this rank updates, each tensor once: they are the same ones for as long as the engine lives."""
        return [*{id(home.owner): (home.optimizer, home.owner) for home in self._homes()}.values()]

    def snapshot(self, loss_scale: dict[str, float]) -> Snapshot:
        """Collective: returns this rank's part as views, which the next step overwrites.

        Where there is an average, it is the weights of the snapshot, which are evaluated and exported, and those that
        are trained are a state called RAW.
        """
        homes = self._homes()
        states_of = {home.name: _as_saved(home) for home in homes}
        weights = [self._own_share(home, home.name, _averaged(home)) for home in homes]
        weights += [self._own_share(frozen, frozen.name, frozen.values) for frozen in self._frozen()]
        if self._ranks.is_zero:
            weights += [Fragment(name, 0, values) for name, values in zero.buffers(self._model).items()]
        states = [
            self._own_share(home, state_name(key, home.name), values)
            for home in homes
            for key, values in states_of[home.name].items()
        ]
        return Snapshot(
            weights=[fragment for fragment in weights if fragment.values.numel()],
            states=[fragment for fragment in states if fragment.values.numel()],
            keys=sorted({key for states in states_of.values() for key in states}),
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
        if saved.states is None or RAW not in saved.keys:
            forget_average(self._owners)
            self._is_averaged = False
        buffers = zero.buffers(self._model)
        homes = self._homes()
        states = [] if saved.states is None else self._make_states(homes, saved)
        weights: list[_Part] = [(frozen, frozen.name, frozen.values) for frozen in self._frozen()]
        weights += [
            (home, home.name, values) for home in homes if (values := self._saved_weights(home, saved)) is not None
        ]
        self._read(saved.weights, weights, buffers)
        if saved.states is not None:
            self._read(saved.states, states, {})
            self._begin_averages(homes, saved)
        weights_from_masters()

    def _make_states(self, homes: Sequence[zero.Home], saved: Saved) -> list[_Part]:
        """Creates the states that were saved; returns where each of them is to be read, RAW among them."""
        for home in homes:
            if home.name not in saved.scalars:
                home.forget_states()  # it had no state yet
        keys = [key for key in saved.keys if key != RAW]
        has_average = RAW in saved.keys and self._keeps_average
        states: list[_Part] = []
        for home in homes:
            if (scalars := saved.scalars.get(home.name)) is not None:
                home.make_states([*keys, AVERAGE] if has_average else keys, scalars)
                found = {key: values for key, values in home.states().items() if key != AVERAGE}
                found |= {RAW: home.master} if RAW in saved.keys else {}
                states += [(home, state_name(key, home.name), values) for key, values in found.items()]
        return states

    def _saved_weights(self, home: zero.Home, saved: Saved) -> Tensor | None:
        """Where the saved weights belong: to the average, if they are one; None if that is not wanted."""
        if saved.states is None or RAW not in saved.keys or home.name not in saved.scalars:
            return home.master
        return home.states()[AVERAGE] if self._keeps_average else None

    def _begin_averages(self, homes: Sequence[zero.Home], saved: Saved) -> None:
        """The average of what had not been trained yet, but has an owner together with other weights, is itself."""
        self._is_averaged = RAW in saved.keys and self._keeps_average
        for home in homes:
            if home.name not in saved.scalars and (average := home.states().get(AVERAGE)) is not None:
                average.copy_(home.master)

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


def _averaged(home: zero.Home) -> Tensor:
    """The average of the weights, if there is one, else the weights."""
    return home.states().get(AVERAGE, home.master)


def _as_saved(home: zero.Home) -> dict[str, Tensor]:
    """The states of a snapshot, in which the average is the weights, and these are RAW."""
    states = home.states()
    if states.pop(AVERAGE, None) is not None:
        states[RAW] = home.master
    return states
