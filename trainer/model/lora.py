"""Adapters: which parts of a pretrained model are trained with model.lora, and how adapters are added and merged.

peft adds the adapters to the model in place: its class, config and forward stay the same, and code that trains,
evaluates or saves it sees parameters of which few are trained. Only this module imports peft.
"""

import copy
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shardtune.errors import CheckpointError, DataError
from shardtune.recipe.model.lora import LoraConfig
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.head import own_heads
from shardtune.trainer.model.quantized.loading import quantizing, settle_quantized
from shardtune.trainer.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The two files that peft looks for in a folder."""
NAME = "default"
"""Name of the adapter within the names of its parameters; peft's default, which its files omit."""
OF_PEFT = "base_model.model."
"""Prefix of parameter names in peft's files."""


@dataclass(frozen=True)
class Adapters:
    """The trained parts of a model, by the names of modules as in named_modules."""

    targets: tuple[str, ...]
    """The linear layers that get an adapter."""
    whole: tuple[str, ...]
    """The modules that are trained as a whole."""
    frozen: tuple[str, ...] = ()
    """The linear layers that may be quantized, with an adapter or without: all but the last, those of modules that are
    trained as a whole, and those that share their weights."""

    def num_added(self, model: nn.Module, r: int) -> int:
        """Number of parameters that the adapters add to the model."""
        return sum(r * sum(features_of(model.get_submodule(name))) for name in self.targets)

    def num_trained(self, model: nn.Module, r: int) -> int:
        """Number of trained parameters, those of the adapters included."""
        whole = {id(p): p for name in self.whole for p in model.get_submodule(name).parameters()}
        return self.num_added(model, r) + sum(p.numel() for p in whole.values() if p.requires_grad)


def choose(model: "PreTrainedModel", lora: LoraConfig, task: Task, *, new: Collection[str] = ()) -> Adapters:
    """Resolves the recipe's module names for this model, whose weights named in `new` are not pretrained.

    Raises DataError if the model has no module of such a name, or an adapter would change a weight that layers share.
    """
    modules = dict(model.named_modules())
    whole = [name for end in lora.train_whole for name in _named(end, modules, "train_whole", "module")]
    if lonely := [name for name in new if "." not in name]:
        raise DataError(
            f"model.lora: the pretrained model has no weights for {', '.join(lonely)}, which belongs to no submodule "
            "and would not be trained; remove model.lora"
        )
    whole += [name.rpartition(".")[0] for name in new]
    if not task.wants_target_loss:  # the task's own head, beside the pretrained model
        whole += own_heads(model)
    whole = _outermost(whole)
    last = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in modules.items()
        if is_linear(module) and not any(name == outer or name.startswith(f"{outer}.") for outer in whole)
    }
    owners = _owners(model)
    sharing = {name: [owner for owner in owners[id(module.weight)] if owner != name] for name, module in linear.items()}
    alone = [name for name, module in linear.items() if module is not last and not sharing[name]]
    if lora.targets == "all-linear":
        targets = alone
    else:
        targets = [name for end in lora.targets for name in _named(end, linear, "targets", "linear layer")]
    for name in targets:
        if others := sharing[name]:
            raise DataError(
                f"model.lora.targets: {name} shares its weight with {', '.join(others)}, which merging an adapter "
                f"would change too; drop {name.rpartition('.')[2]}, or name it in model.lora.train_whole"
            )
    if not targets:
        raise DataError("model.lora: the model has no linear layer to adapt; remove model.lora")
    return Adapters(
        tuple(dict.fromkeys(targets)), tuple(whole), tuple(name for name in alone if _is_plain(linear[name]))
    )


def adapt(model: nn.Module, lora: LoraConfig, adapters: Adapters, *, seed: int) -> None:
    """Adds the adapters, which change no output yet, and freezes all that is not trained.

    They have the dtype of the layers that they adapt, and the same values on every rank and in every ZeRO stage.
    """
    import peft

    trained = {id(p) for name in adapters.whole for p in model.get_submodule(name).parameters() if p.requires_grad}
    before = list(model.parameters())
    is_transposed = any(not isinstance(model.get_submodule(name), nn.Linear) for name in adapters.targets)
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # typed as int, but only divided by r
        lora_dropout=lora.dropout,
        target_modules=list(adapters.targets),
        fan_in_fan_out=is_transposed,
        exclude_modules=None,
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about layers of which some are transposed, and tied weights
        peft.inject_adapter_in_model(config, model, NAME)
    for parameter in before:
        parameter.requires_grad_(id(parameter) in trained)
    end = f".lora_A.{NAME}.weight"
    adapted = {name.removesuffix(end) for name, _ in model.named_parameters() if ".lora_A." in name}
    assert adapted == set(adapters.targets), "peft has chosen other layers"


def trains_adapters_alone(model: nn.Module) -> bool:
    """Whether all that is trained are adapters: without them, the model is the pretrained one."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return bool(trained) and all(".lora_A." in name or ".lora_B." in name for name in trained)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Leaves the adapters out of the passes within."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True  # enable_adapters would also change requires_grad, in the middle of a step
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merge(weight: Tensor, down: Tensor, up: Tensor, lora: LoraConfig, *, is_transposed: bool) -> Tensor:
    """The weight with its adapter merged, in fp32; `down` has shape (r, inputs), `up` (outputs, r)."""
    added = (up.float() @ down.float()) * (lora.alpha / lora.r)
    return weight.float() + (added.T if is_transposed else added)


def is_linear(module: nn.Module) -> bool:
    """Whether the module can be adapted: torch's linear layer, or the transposed one of GPT-2."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _is_plain(module: nn.Module) -> bool:
    """Whether it is computed by its own forward method: classes derived from it may be read by others."""
    from transformers.pytorch_utils import Conv1D

    return type(module) in (nn.Linear, Conv1D)


def features_of(module: Any) -> tuple[int, int]:
    """Number of inputs and outputs of a linear layer."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.nx, module.nf


def adapter_names(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """For each adapter among these parameter names: its layer, and the names of its two matrices."""
    end = f".lora_A.{NAME}.weight"
    for name in names:
        if name.endswith(end):
            layer = name.removesuffix(end)
            yield layer, name, f"{layer}.lora_B.{NAME}.weight"


def peft_name(name: str) -> str:
    """A parameter's name in peft's files."""
    return OF_PEFT + name.replace(f".lora_A.{NAME}.", ".lora_A.").replace(f".lora_B.{NAME}.", ".lora_B.")


def peft_config(
    model: Any, lora: LoraConfig, layers: Collection[str], whole: Iterable[str], *, base: str, revision: str | None
) -> Any:
    """The content of adapter_config.json for adapters of these layers of a model, which is without adapters."""
    import peft

    kinds: Mapping[str, str] = {
        "ForCausalLM": "CAUSAL_LM",
        "LMHeadModel": "CAUSAL_LM",
        "ForConditionalGeneration": "SEQ_2_SEQ_LM",
        "MTModel": "SEQ_2_SEQ_LM",
        "ForSequenceClassification": "SEQ_CLS",
        "ForTokenClassification": "TOKEN_CLS",
    }
    of_class = type(model)
    kind = next((kind for end, kind in kinds.items() if of_class.__name__.endswith(end)), None)
    ends = {layer.rpartition(".")[2] for layer in layers}
    also = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends and name not in layers}
    return peft.LoraConfig(
        task_type=kind,
        auto_mapping=None if kind else {"base_model_class": of_class.__name__, "parent_library": of_class.__module__},
        base_model_name_or_path=base,
        revision=revision,
        r=lora.r,
        # Other programs that read it accept whole numbers only.
        lora_alpha=int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        # The last parts of the names, which other programs understand too, if they mean the same layers.
        target_modules=sorted(layers if also else ends),
        modules_to_save=sorted(whole) or None,
        fan_in_fan_out=any(not isinstance(model.get_submodule(layer), nn.Linear) for layer in layers),
        inference_mode=True,
    )


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds adapters, not a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def open_base(
    recipe: Recipe,
    model_class: Any,
    config: Any,
    *,
    dtype: torch.dtype | None,
    quantized: Mapping[str, Any] | None = None,
    device: str = "cpu",
    where: Mapping[str, Any] | None = None,
) -> Any:
    """The pretrained model of a recipe, as a model of this config, on the CPU; dtype None is the dtype of its files.

    With `quantized` (quantized_as) its layers are held in few bits, and the model is on the device. Otherwise `where`
    has arguments of from_pretrained that place it.

    Weights that it lacks, or that differ in shape, are initialized at random without a warning: adapters bring these.
    Raises DataError if it cannot be loaded.
    """
    import transformers

    config = copy.deepcopy(config)
    config.dtype = dtype  # otherwise from_pretrained would use the dtype of the training
    logging: Any = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    how: dict[str, Any] = {"config": config, "dtype": dtype or "auto", **(where or {})}
    if quantized is not None:
        how |= quantizing(config, quantized["layers"], quantized["kind"], torch.device(device))
    try:
        model = model_class.from_pretrained(
            recipe.model.path,
            revision=recipe.model.revision,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **how,
        )
    except (OSError, ValueError) as error:
        raise DataError(f"model.path: {recipe.model.path!r} cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    if quantized is not None:
        settle_quantized(model, dtype or model.dtype)
    return model


def put_on(model: Any, folder: Path) -> Any:
    """The pretrained model with the adapters of a folder, in its own dtype, as they were trained.

    Raises CheckpointError if the folder has no safetensors; peft would unpickle another file in their place.
    """
    import peft
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise CheckpointError(f"{folder} has no {SAFETENSORS_WEIGHTS_NAME}; export the adapters again")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about transposed layers and tied weights
        return peft.PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).get_base_model()


def _named(end: str, modules: Mapping[str, nn.Module], key: str, what: str) -> list[str]:
    """The modules whose name is `end`, or ends in it after a dot."""
    names = [name for name in modules if name == end or name.endswith(f".{end}")]
    if not names:
        ends = dict.fromkeys(name.rpartition(".")[2] for name in modules if not name.rpartition(".")[2].isdecimal())
        legal = ", ".join(sorted(name for name in ends if name))
        raise DataError(f"model.lora.{key}: the model has no {what} called {end!r}; it has {legal}")
    return names


def _outermost(names: Iterable[str]) -> list[str]:
    """The names without those of modules inside another one; sorted, each once."""
    kept: list[str] = []
    for name in sorted(set(names)):
        if not any(name.startswith(f"{outer}.") for outer in kept):
            kept.append(name)
    return kept


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """id of each parameter and buffer -> names of the modules that hold it."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for _, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            owners.setdefault(id(tensor), []).append(name)
    return owners
