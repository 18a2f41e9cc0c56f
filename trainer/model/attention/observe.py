"""What the choice of an attention implementation is made from: the machine, and the model's class and config."""

from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shardtune.trainer.model.attention.choice import FLASH, Machine, Needs
from shardtune.trainer.model.pretrained import dropouts_of, first_number

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def machine_of(device: torch.device) -> Machine:
    """The device and the libraries here."""
    if device.type != "cuda":
        return Machine(device.type, torch=str(torch.__version__), varlen=_varlen_parameters())
    return Machine(
        device.type,
        torch.cuda.get_device_capability(device),
        torch=str(torch.__version__),
        varlen=_varlen_parameters(),
        flash=frozenset(version for version in FLASH if _has_flash(version)),
        has_triton=find_spec("triton") is not None,
    )


def needs_of(auto_model: Any, config: "PreTrainedConfig", *, is_packed: bool) -> Needs:
    """What the model of this config needs; `auto_model` is the class of transformers that loads it."""
    found = auto_model._model_mapping.get(type(config), None)
    model: Any = found[0] if isinstance(found, tuple) else found
    if model is None:  # transformers says so when it is to load it
        return Needs(config.model_type, has_flash=False, has_sdpa=False, has_flex=False)
    text = config.get_text_config()
    heads = first_number(text, "num_attention_heads")
    size = first_number(text, "head_dim") or (first_number(text, "hidden_size") // heads if heads else 0)
    sizes = {first_number(text, name) or size for name in ("qk_head_dim", "v_head_dim")} - {0}
    return Needs(
        name=model.__name__,
        head_sizes=frozenset(sizes),
        has_flash=bool(model._supports_flash_attn and model._supports_attention_backend),
        has_sdpa=bool(model._supports_sdpa),
        has_flex=bool(model._supports_flex_attn),
        has_own_kernels=bool(getattr(model, "_compatible_flash_implementations", None)),
        reads_mask=bool(getattr(text, "output_router_logits", False)),
        dropout=max((getattr(config, name) for name in dropouts_of(config) if "att" in name), default=0.0),
        softcap=getattr(text, "attn_logit_softcapping", None) is not None,
        crosses=bool(config.is_encoder_decoder),
        is_packed=is_packed,
    )


def _varlen_parameters() -> frozenset[str] | None:
    """The parameters of torch's varlen_attn; None if there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return frozenset(signature(varlen_attn).parameters)


def _has_flash(version: int) -> bool:
    """Whether transformers can load this version: from its package, or from files of the hub that are here."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK
    from transformers.utils import import_utils

    if getattr(import_utils, f"is_flash_attn_{version}_available")():
        return True
    if not import_utils.is_kernels_available():
        return False
    name = FLASH_ATTN_KERNEL_FALLBACK[FLASH[version]].replace("/", "--")
    return any(any(Path(HF_HUB_CACHE, f"{kind}--{name}", "snapshots").glob("*")) for kind in ("models", "kernels"))
