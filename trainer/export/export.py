"""Exports a checkpoint of any layout as a Hugging Face folder, in one process without a GPU.

`python -m shardtune.trainer.export.export RUN_DIR [--step N] [--dtype bf16] [--out DIR] [--merge-lora]`. A run that
finishes writes its exports with the same function. Memory holds the weights in the export's dtype and one piece of a
file.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from shardtune.argument_parser import OneLineParser
from shardtune.errors import CheckpointError, ShardtuneError
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.run_dir.files import CHECKPOINTS, EXPORT, MODEL, RESULTS
from shardtune.run_dir.run import read_config
from shardtune.shell_line import shell_line
from shardtune.trainer.checkpoint.base_model import identify, refuse_another_base
from shardtune.trainer.checkpoint.manifest import (
    WEIGHTS,
    Checkpoint,
    best_first,
    complete_checkpoints,
    damage,
    open_checkpoint,
)
from shardtune.trainer.engine.snapshot import SavedTensors, sync
from shardtune.trainer.export.adapters import merged_model, write_adapters
from shardtune.trainer.export.model_card import CURVES, render_card, render_curves
from shardtune.trainer.model.load import DTYPES, EVALUATION
from shardtune.trainer.tasks import TASKS

CONFIGS = ("config.json", "generation_config.json")
SHARD = "5GB"
"""The largest size of a safetensors file, as the hub recommends."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = OneLineParser("shardtune export", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run directory")
    parser.add_argument("--step", type=int, help="the checkpoint's step (default: the best by the dev metric)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="of the weights (default: the training's precision)")
    parser.add_argument("--out", type=Path, help="a new folder (default: RUN_DIR/export/step-N)")
    parser.add_argument("--merge-lora", action="store_true", help="merge LoRA adapters into the base model's weights")
    arguments = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    try:
        recipe = read_config(arguments.run_dir)
        if arguments.merge_lora and recipe.model.lora is None:
            raise CheckpointError(
                f"--merge-lora: {arguments.run_dir} has no adapters, because its recipe has no model.lora; export the "
                "whole model without this flag"
            )
        checkpoint = find_checkpoint(arguments.run_dir, recipe, arguments.step)
        if recipe.model.lora is not None:
            refuse_another_base(checkpoint.manifest.base, identify(recipe), checkpoint.path)
        name = checkpoint.path.name + ("-merged" if arguments.merge_lora else "")
        folder = arguments.out or arguments.run_dir / EXPORT / name
        if arguments.out is not None and folder.exists() and any(folder.iterdir()):
            raise CheckpointError(f"--out: {folder} is not empty; give a new folder")
        results = _results_of(arguments.run_dir, checkpoint.step)
        try:
            with redirect_stdout(sys.stderr):  # DeepSpeed, which transformers imports, prints warnings to stdout
                export(
                    arguments.run_dir,
                    checkpoint,
                    folder,
                    recipe=recipe,
                    dtype=arguments.dtype,
                    results=results,
                    merge_lora=arguments.merge_lora,
                )
        except OSError as error:
            raise CheckpointError(f"could not write {folder}: {error.strerror or error}") from error
    except ShardtuneError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    print(folder)
    return EXIT_OK


def find_checkpoint(run_dir: Path, recipe: Recipe, step: int | None) -> Checkpoint:
    """The checkpoint of this step; without a step the best by the dev metric, or the newest if none was evaluated.

    Its weights are intact. Raises CheckpointError with what is wrong.
    """
    folder = run_dir / CHECKPOINTS
    if step is None:
        candidates = in_order(complete_checkpoints(folder), recipe)
    else:
        path = folder / f"step-{step}"
        if not path.is_dir():
            raise CheckpointError(
                f"{path} does not exist; `{shell_line('checkpoints', run_dir)}` lists the checkpoints"
            )
        try:
            candidates = [open_checkpoint(path)]
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
    problems = []
    for checkpoint in candidates:
        problem = damage(checkpoint, (path.name for path in checkpoint.files(WEIGHTS)))
        if problem is None:
            return checkpoint
        problems.append(f"{checkpoint.path}: {problem}")
    raise CheckpointError("\n".join(problems) or f"{folder} has no complete checkpoint")


def in_order(complete: Sequence[Checkpoint], recipe: Recipe) -> list[Checkpoint]:
    """The evaluated checkpoints, best by the recipe's dev metric first, then the others, newest first."""
    if not complete:
        return []
    metric = recipe.checkpoint.best_metric or complete[-1].manifest.best_metric
    best = best_first(complete, metric, lower_is_better=metric in TASKS[recipe.task.kind].lower_is_better)
    return [*best, *(checkpoint for checkpoint in reversed(complete) if checkpoint not in best)]


def _precision(recipe: Recipe, checkpoint: Checkpoint) -> str:
    """The recipe's precision, or the one that `auto` stood for when the checkpoint was saved."""
    precision: str = recipe.engine.precision
    return precision if precision != "auto" else str(checkpoint.manifest.layout["precision"])


def export(
    run_dir: Path,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    recipe: Recipe,
    dtype: str | None = None,
    results: Mapping[str, Any] | None = None,
    max_shard_size: str = SHARD,
    merge_lora: bool = False,
) -> None:
    """Writes a folder that AutoModel and transformers.pipeline load; it replaces an older one atomically.

    With model.lora the folder holds adapters for peft, unless `merge_lora` asks for a whole model. The weights are the
    checkpoint's fp32 master weights, cast once, by default to the training's precision. `results` are the results of
    the run, if they belong to this checkpoint. Raises OSError, or CheckpointError if the run directory is incomplete.
    """
    draft, old = folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.old")
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir(parents=True)
    model = _empty_model(run_dir, DTYPES[dtype or _precision(recipe, checkpoint)])
    is_adapter = recipe.model.lora is not None and not merge_lora
    if is_adapter:
        write_adapters(draft, model, checkpoint, recipe)
        _keep_configs_apart(run_dir / MODEL, draft)
    elif merge_lora:
        merged = merged_model(model.config, type(model), checkpoint, recipe, model.dtype)
        if merged.can_generate():
            merged.generation_config = model.generation_config
        merged.save_pretrained(draft, max_shard_size=max_shard_size)
    else:
        model.save_pretrained(draft, state_dict=_weights(model, checkpoint), max_shard_size=max_shard_size)
    for path in (run_dir / MODEL).iterdir():
        is_kept_apart = is_adapter and path.name in CONFIGS
        if not is_kept_apart and not (draft / path.name).exists():  # the tokenizer's files
            shutil.copyfile(path, draft / path.name)
    manifest = checkpoint.manifest
    if manifest.dev_metrics is not None:
        (draft / EVALUATION).write_text(
            json.dumps(manifest.dev_metrics, ensure_ascii=False, indent=1), encoding="utf-8"
        )
    if curves := render_curves(run_dir, checkpoint.step):
        (draft / CURVES).write_text(curves, encoding="utf-8")
    card = render_card(
        run_dir, manifest, recipe, model, results=results, has_curves=bool(curves), is_adapter=is_adapter
    )
    (draft / "README.md").write_text(card, encoding="utf-8")
    for path in draft.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors 0.8 makes its files readable by the owner alone
        sync(path)
    sync(draft)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _keep_configs_apart(source: Path, draft: Path) -> None:
    """Copies the configs into a subfolder, because transformers expects a whole model beside a config.json."""
    (draft / MODEL).mkdir()
    for name in CONFIGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, draft / MODEL / name)


def _empty_model(run_dir: Path, dtype: torch.dtype) -> Any:
    """A model of the trained model's class and config on the meta device."""
    folder = run_dir / MODEL
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist yet; `{shell_line('run', run_dir)}` resumes the run")
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])(config).to(dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def _weights(model: Any, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The whole state dict in the model's dtype; names of a shared weight share a tensor."""
    saved, shapes = SavedTensors(checkpoint.files(WEIGHTS)), checkpoint.manifest.shapes
    kept = model.state_dict().keys()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    for name, empty in [*parameters.items(), *buffers.items()]:
        names.setdefault(id(empty), []).append(name)
    whole: dict[str, Tensor] = {}
    for same in names.values():
        name = next((name for name in same if name in shapes), None)
        if name is None:
            raise CheckpointError(f"{checkpoint.path} is of another model than the run's {MODEL}/: it has no {same[0]}")
        # A buffer keeps its dtype: it may be a count, which bf16 cannot represent.
        dtype = model.dtype if same[0] in parameters else saved.dtype(name)
        tensor = torch.empty(tuple(shapes[name]), dtype=dtype)
        saved.read(name, 0, tensor.view(-1))
        whole |= dict.fromkeys(same, tensor)
    return whole


def _results_of(run_dir: Path, step: int) -> Mapping[str, Any] | None:
    if not (run_dir / RESULTS).is_file():
        return None
    results: dict[str, Any] = json.loads((run_dir / RESULTS).read_text(encoding="utf-8"))
    return results if results["best_step"] == step else None


if __name__ == "__main__":
    sys.exit(main())
