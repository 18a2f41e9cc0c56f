"""The model that a run has exported, ready to answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardtune.errors import CheckpointError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CONFIG, FACTS, MODEL
from shardtune.shell_line import shell_line
from shardtune.trainer.commands.inference.placement import place, placement
from shardtune.trainer.setup.precision import expected_precision
from shardtune.trainer.tasks import Task, task_of

if TYPE_CHECKING:
    import torch


def find_model(run_dir: Path, name: str, overrides: Sequence[str] = ()) -> tuple[Recipe, Path, dict[str, Any]]:
    """A run's recipe with the overrides, the folder of its `best` or `last` model, and its task's facts.

    Raises CheckpointError if it is not a run directory, or if the model is not exported yet.
    """
    if not (run_dir / CONFIG).is_file():
        raise CheckpointError(f"{run_dir}: not a run directory (no {CONFIG})")
    folder = run_dir / "export" / name
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist yet; `{shell_line('run', run_dir)}` resumes the run")
    recipe = parse_recipe((run_dir / CONFIG).read_text(encoding="utf-8"), overrides, name=str(run_dir / CONFIG))
    return recipe, folder, json.loads((run_dir / FACTS).read_text(encoding="utf-8"))


def open_model(
    recipe: Recipe,
    folder: Path,
    facts: Mapping[str, Any],
    device: "torch.device | None" = None,
    *,
    is_split: bool = False,
) -> tuple[Task, Any, Any]:
    """The task, the model exported to `folder`, and its tokenizer.

    The model is on the device, by default the first GPU if there is one; or `is_split` over all GPUs, by layers.
    Adapters are added to their base model. Raises
    CheckpointError if the base model has changed, or the weights cannot be read.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    from shardtune.trainer.checkpoint.base_model import identify, read_base, refuse_another_base
    from shardtune.trainer.model.load import DTYPES
    from shardtune.trainer.model.lora import is_adapter, open_base, put_on
    from shardtune.trainer.model.pretrained import model_class
    from shardtune.trainer.model.quantized.loading import refuse_without_bitsandbytes

    transformers.utils.logging.disable_progress_bar()
    task, tokenizer, config = open_task(recipe, folder, facts)
    if is_adapter(folder):
        trained_on = read_base(folder)
        refuse_another_base(trained_on, identify(recipe), folder)
        refuse_without_bitsandbytes(recipe)
        base = open_base(
            recipe,
            model_class(config),
            config,
            dtype=DTYPES[expected_precision(recipe)],
            quantized=trained_on.get("quantized"),
            device="cuda" if torch.cuda.is_available() else "cpu",
            where=placement(is_split=is_split),
        )
        try:
            model = put_on(base, folder)
        except SafetensorError as error:
            raise CheckpointError(f"{folder}: its adapters cannot be read ({error}); export them again") from error
        if (folder / MODEL / "generation_config.json").is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder / MODEL)
    else:
        auto_model = getattr(transformers, task.auto_model)
        try:
            # Only safetensors: another file of weights, put in their place, would be unpickled.
            model = auto_model.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, **placement(is_split=is_split)
            )
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: its weights cannot be read ({error}); export the model again") from error
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return task, place(model, device, is_split=is_split).eval(), tokenizer


def open_task(recipe: Recipe, folder: Path, facts: Mapping[str, Any]) -> tuple[Task, Any, Any]:
    """The task of the model exported to `folder`, with what its dev metrics tell, its tokenizer and its config."""
    import transformers

    from shardtune.trainer.model.load import calibrate
    from shardtune.trainer.model.lora import is_adapter

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    place = folder / MODEL if is_adapter(folder) else folder
    config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    task = task_of(recipe, facts, tokenizer, config)
    calibrate(task, folder)
    return task, tokenizer, config
