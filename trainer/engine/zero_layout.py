"""Where DeepSpeed keeps a rank's part of each parameter: its fp32 master weights and the optimizer's states of them.

DeepSpeed has four layouts, by ZeRO stage and precision. This module turns them into one list of Homes, by the names of
the parameters, so that checkpoints are written and read without knowledge of the four.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shardtune.trainer.engine.states.names import AVERAGE


@dataclass(frozen=True)
class Home:
    """A rank's part of one trained parameter: which elements, and where they are kept."""

    name: str
    start: int
    """Index of the part's first element in the flattened parameter."""
    owner: Tensor
    """The tensor that the optimizer updates: the key of its states, which have the same shape."""
    offset: int
    """Index of the part's first element in the flattened owner."""
    num_elements: int
    optimizer: torch.optim.Optimizer
    replicated: bool
    """Whether every rank has the whole parameter."""

    @property
    def master(self) -> Tensor:
        """A view of the part's fp32 weights; shape (num_elements,)."""
        return self._part(self.owner)

    @property
    def has_state(self) -> bool:
        """False before the first step, and for a parameter that never had a gradient."""
        return bool(self._state())

    def states(self) -> dict[str, Tensor]:
        """Views of the optimizer's states of each element; shape (num_elements,). Empty before the first step."""
        return {
            key: self._part(value)
            for key, value in self._state().items()
            if isinstance(value, Tensor) and key != "step"
        }

    def scalars(self) -> dict[str, float | int]:
        """The optimizer's states of the part as a whole, such as AdamW's step."""
        return {
            key: value.item() if isinstance(value, Tensor) else value
            for key, value in self._state().items()
            if key == "step" or not isinstance(value, Tensor)
        }

    def forget_states(self) -> None:
        """Resets existing states to those of an optimizer that has done no step."""
        if self.has_state:
            for values in self.states().values():
                values.zero_()
            self.make_states((), {key: type(value)(0) for key, value in self.scalars().items()})

    def make_states(self, keys: Sequence[str], scalars: Mapping[str, float | int]) -> None:
        """Creates these states, zeros where they are new, as if the optimizer had done steps before."""
        state, dtype = self.optimizer.state[self.owner], self.optimizer.defaults.get("state_dtype")
        for key in keys:
            kept_as = dtype if key != AVERAGE else None
            state.setdefault(key, torch.zeros_like(self.owner, dtype=kept_as, requires_grad=False))
        # As in torch.optim.Optimizer.load_state_dict: a fused optimizer reads its step on the parameters' device.
        fused = self.optimizer.defaults.get("fused") or self.optimizer.defaults.get("capturable")
        device = self.owner.device if fused else torch.device("cpu")
        for key, value in scalars.items():
            state[key] = torch.tensor(value, device=device) if isinstance(value, float) else value

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.optimizer.state.get(self.owner, {})
        return state

    def _part(self, tensor: Tensor) -> Tensor:
        assert tensor.shape == self.owner.shape, f"an optimizer state of {self.name} differs in shape from its weights"
        return tensor.detach().view(-1).narrow(0, self.offset, self.num_elements)


@dataclass(frozen=True)
class Frozen:
    """A rank's part of a parameter that is not trained."""

    name: str
    start: int
    values: Tensor
    """A view; shape (elements,)."""
    replicated: bool


def homes(engine: Any) -> list[Home]:
    """This rank's part of every trained parameter of a DeepSpeed engine, without empty parts."""
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    wrapper = engine.optimizer
    flats = getattr(wrapper, "bit16_groups_flat", None) or getattr(wrapper, "bf16_groups_flat", None)
    if hasattr(wrapper, "fp32_partitioned_groups_flat"):
        found = _stage_3(wrapper, names)
    elif flats:
        found = _stages_1_and_2(wrapper, flats, names)
    elif hasattr(wrapper, "fp32_groups"):
        pairs = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        found = _stage_0([pair for group in pairs for pair in zip(*group, strict=True)], wrapper.optimizer, names)
    else:
        parameters = [parameter for group in wrapper.param_groups for parameter in group["params"]]
        found = _stage_0([(parameter, parameter) for parameter in parameters], wrapper, names)
    return [home for home in found if home.num_elements]


def frozen(model: nn.Module) -> list[Frozen]:
    """This rank's part of every parameter that is not trained."""
    found = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_tensor"):
            start, numel = _partition(parameter)
            found.append(Frozen(name, start, parameter.ds_tensor.detach().view(-1)[:numel], replicated=False))
        else:
            found.append(Frozen(name, 0, parameter.detach().view(-1), replicated=True))
    return [part for part in found if part.values.numel()]


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """The persistent buffers, whole on every rank, by name; views of shape (elements,)."""
    kept = model.state_dict().keys()  # without buffers that are not persistent
    return {name: value.detach().view(-1) for name, value in model.named_buffers() if name in kept and value.numel()}


def shapes(model: nn.Module, *, trained_alone: bool = False) -> dict[str, list[int]]:
    """The whole shape of every parameter, or every trained one, and of every persistent buffer, by name."""
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad or not trained_alone]
    tensors = [*parameters, *((name, model.get_buffer(name)) for name in buffers(model))]
    return {name: list(getattr(tensor, "ds_shape", tensor.shape)) for name, tensor in tensors}


@torch.no_grad()
def weights_from_masters(engine: Any) -> None:
    """Collective: copies the master weights into the model, cast to its precision, as at the end of a step."""
    wrapper = engine.optimizer
    if hasattr(wrapper, "fp32_partitioned_groups_flat"):
        wrapper.checkpoint_event_prologue()  # releases the whole parameters that it holds
        for sub_group in range(len(wrapper.fp16_groups)):
            wrapper._reassign_or_swap_out_partitioned_parameters(sub_group)
        wrapper.checkpoint_event_epilogue()  # and gathers them again
        forget_secondary_partitions(engine.module)
    elif hasattr(wrapper, "update_lp_params"):
        wrapper.update_lp_params()
    elif hasattr(wrapper, "fp32_groups"):
        for weights, masters in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True):
            for weight, master in zip(weights, masters, strict=True):
                weight.copy_(master)


def forget_secondary_partitions(model: nn.Module) -> None:
    """Has ZeRO++ copy the partitions anew with which the ranks of a machine gather weights without the others.

    DeepSpeed (0.19.8) does so by itself after a step, but for trained weights only: restored frozen ones would be those
    of before.
    """
    for parameter in model.parameters():
        if getattr(parameter, "ds_secondary_tensor", None) is not None:
            parameter.ds_secondary_tensor = None  # type: ignore[attr-defined]


def undo_first_step(engine: Any) -> None:
    """Undoes the step that DeepSpeed does by itself in ZeRO-0 with half precision.

    Its FP16_UnfusedOptimizer (0.19.8) steps once with zero gradients to make the optimizer's states: the master weights
    are decayed, and AdamW's bias correction is a step ahead for the whole training.
    """
    wrapper = engine.optimizer
    if hasattr(wrapper, "fp32_groups") and hasattr(wrapper, "refresh_fp32_params"):
        forget_steps(engine)
        wrapper.refresh_fp32_params()


def forget_steps(engine: Any) -> None:
    """Clears the optimizer's states, as if it had done no step."""
    wrapper = engine.optimizer
    for optimizer in (getattr(wrapper, "optimizer", wrapper), getattr(wrapper, "backup_optimizer", None)):
        if optimizer is not None:
            optimizer.state.clear()
    # Stages 1 and 2 (DeepSpeed 0.19.8) keep views of the first step's states with the parameters: all of their memory.
    for parameter in engine.module.parameters():
        if (mapping := getattr(parameter, "_hp_mapping", None)) is not None:
            mapping.optim_fragment = None
    if hasattr(wrapper, "_hp_optimizer_states_linked"):
        wrapper._hp_optimizer_states_linked = False  # the next step links its own


def loss_scale(engine: Any) -> dict[str, float]:
    """The state of fp16's dynamic loss scale; empty in other precisions."""
    scaler = _scaler(engine)
    return {} if scaler is None else {key: getattr(scaler, key) for key in _SCALER_KEYS if hasattr(scaler, key)}


def set_loss_scale(engine: Any, values: Mapping[str, float]) -> None:
    """Restores a loss scale; one saved in another precision changes nothing."""
    scaler = _scaler(engine)
    for key, value in values.items():
        if scaler is not None and hasattr(scaler, key):
            setattr(scaler, key, value)


_SCALER_KEYS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def _scaler(engine: Any) -> Any:
    if not engine.fp16_enabled():
        return None
    wrapper = engine.optimizer
    return getattr(wrapper, "loss_scale_config", None) or getattr(wrapper, "loss_scaler", None)


def _stage_0(
    pairs: list[tuple[nn.Parameter, Tensor]], optimizer: torch.optim.Optimizer, names: dict[int, str]
) -> Iterator[Home]:
    """Every rank has every parameter whole; each has an owner of its own."""
    for parameter, owner in pairs:
        yield Home(names[id(parameter)], 0, owner, 0, owner.numel(), optimizer, replicated=True)


def _stages_1_and_2(wrapper: Any, flats: list[Tensor], names: dict[int, str]) -> Iterator[Home]:
    """A group's parameters are views of one flat tensor, which is cut into as many partitions as there are ranks.

    The position of a parameter is read off its storage, because it depends on alignment and round_robin_gradients.
    """
    groups = getattr(wrapper, "bit16_groups", None) or wrapper.bf16_groups
    for number, (group, flat) in enumerate(zip(groups, flats, strict=True)):
        (owner,) = wrapper.optimizer.param_groups[number]["params"]
        rank = dist.get_rank(wrapper.real_dp_process_group[number])
        from_, to = rank * owner.numel(), (rank + 1) * owner.numel()
        for parameter in group:
            begin = parameter.data.storage_offset() - flat.storage_offset()
            first, last = max(begin, from_), min(begin + parameter.numel(), to)
            name = names[id(parameter)]
            yield Home(
                name, first - begin, owner, first - from_, max(0, last - first), wrapper.optimizer, replicated=False
            )


def _stage_3(wrapper: Any, names: dict[int, str]) -> Iterator[Home]:
    """Every parameter is cut into as many partitions as there are ranks; a sub-group's partitions share an owner."""
    for number, (group, owner) in enumerate(
        zip(wrapper.fp16_groups, wrapper.fp32_partitioned_groups_flat, strict=True)
    ):
        optimizer = wrapper.optimizer
        if wrapper.offload_optimizer and wrapper.subgroup_to_device[number] != "cpu":
            optimizer = wrapper.backup_optimizer  # offload_optimizer.ratio below 1
        offset = 0
        for parameter in group:
            start, numel = _partition(parameter)
            yield Home(names[id(parameter)], start, owner, offset, numel, optimizer, replicated=False)
            offset += parameter.partition_numel()


def _partition(parameter: Any) -> tuple[int, int]:
    """Under ZeRO-3: this rank's first element of the flattened parameter, and its number of them without padding."""
    size = parameter.partition_numel()
    start = size * dist.get_rank(parameter.ds_process_group)
    return start, max(0, min(size, parameter.ds_numel - start))
