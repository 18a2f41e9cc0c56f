"""Exports a checkpoint of any layout as a Hugging Face folder, without a GPU.

`python -m shardtune.trainer.export.export RUN_DIR [--step N] [--dtype bf16] [--out DIR] [--merge-lora]`. A run that
finishes exports in the same way, but its ranks share the files. Memory holds the weights of one file on each rank.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from shardtune.argument_parser import OneLineParser
from shardtune.errors import CheckpointError, ShardtuneError
from shardtune.processes import run_piped
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.run_dir.files import AVERAGED, CHECKPOINTS, EXPORT, MODEL, RESULTS, follow_umask, link_or_copy
from shardtune.run_dir.links import refuse_links
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
from shardtune.trainer.distributed.background import run_on_every_rank
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import StopAsked
from shardtune.trainer.engine.snapshot import sync
from shardtune.trainer.export.adapters import merged_model, write_adapters
from shardtune.trainer.export.model_card import CURVES, render_card, render_curves
from shardtune.trainer.export.trained_task import keep_task
from shardtune.trainer.export.weight_files import INDEX, Piece, WeightFiles
from shardtune.trainer.model.load import DTYPES, EVALUATION
from shardtune.trainer.model.pretrained import model_class
from shardtune.trainer.tasks import TASKS

CONFIGS = ("config.json", "generation_config.json")
FILE_BYTES = 5 * 10**9
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
        refuse_links(arguments.run_dir)
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
        results = _results_of(arguments.run_dir, checkpoint)
        try:
            with redirect_stdout(sys.stderr):  # DeepSpeed, which transformers imports, prints warnings to stdout
                Export(
                    arguments.run_dir,
                    checkpoint,
                    folder,
                    recipe=recipe,
                    dtype=arguments.dtype,
                    results=results,
                    merge_lora=arguments.merge_lora,
                ).write()
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
        averaged = complete_checkpoints(folder / AVERAGED)
        candidates = in_order([*complete_checkpoints(folder), *averaged], recipe)
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


class Export:
    """A folder that AutoModel and transformers.pipeline load; it replaces an older one atomically.

    With model.lora the folder holds adapters for peft, unless `merge_lora` asks for a whole model. The weights are the
    checkpoint's fp32 master weights, cast once, by default to the training's precision.
    """

    def __init__(
        self,
        run_dir: Path,
        checkpoint: Checkpoint,
        folder: Path,
        *,
        recipe: Recipe,
        dtype: str | None = None,
        results: Mapping[str, Any] | None = None,
        max_file_bytes: int = FILE_BYTES,
        merge_lora: bool = False,
    ) -> None:
        """`results` are the results of the run, if they belong to this checkpoint.

        Raises CheckpointError if the run directory is incomplete, or the checkpoint is of another model.
        """
        self.folder = folder
        self._run_dir, self._checkpoint, self._recipe, self._results = run_dir, checkpoint, recipe, results
        self._draft, self._old = folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.old")
        self._model = empty_model(run_dir, DTYPES[dtype or _precision(recipe, checkpoint)])
        self._is_adapter = recipe.model.lora is not None and not merge_lora
        self._max_file_bytes = max_file_bytes
        is_whole = not self._is_adapter and not merge_lora
        self._files = WeightFiles(self._model, checkpoint, max_file_bytes) if is_whole else None

    def write(self) -> None:
        """Writes the whole export in this process. Raises OSError or CheckpointError."""
        self.begin()
        for write in self.pieces():
            write()
        self.publish()

    def begin(self) -> None:
        """Makes the folder in which the files are written before they are published. Raises OSError."""
        for leftover in (self._draft, self._old):
            shutil.rmtree(leftover, ignore_errors=True)
        self._draft.mkdir(parents=True)

    def pieces(self) -> list[Callable[[], None]]:
        """What writes the weights, in any order and on any ranks. They raise OSError or CheckpointError."""
        files = self._files
        if files is None:
            return [self._write_at_once]
        return [partial(self._write, files, piece) for piece in files.pieces]

    def publish(self) -> None:
        """Adds the other files, and replaces the folder of an earlier export. Raises OSError."""
        model, manifest = self._model, self._checkpoint.manifest
        if self._files is not None:
            _write_configs(model, self._draft)
            if (index := self._files.index) is not None:
                (self._draft / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for path in (self._run_dir / MODEL).iterdir():
            is_kept_apart = self._is_adapter and path.name in CONFIGS
            if not is_kept_apart and not (self._draft / path.name).exists():  # the tokenizer's files
                shutil.copyfile(path, self._draft / path.name)
        if manifest.dev_metrics is not None:
            (self._draft / EVALUATION).write_text(
                json.dumps(manifest.dev_metrics, ensure_ascii=False, indent=1), encoding="utf-8"
            )
        if curves := render_curves(self._run_dir, self._checkpoint.step):
            (self._draft / CURVES).write_text(curves, encoding="utf-8")
        card = render_card(
            self._run_dir,
            manifest,
            self._recipe,
            model,
            results=self._results,
            has_curves=bool(curves),
            is_adapter=self._is_adapter,
        )
        (self._draft / "README.md").write_text(card, encoding="utf-8")
        keep_task(self._draft, self._recipe, self._run_dir)
        publish(self._draft, self.folder)

    def _write(self, files: WeightFiles, piece: Piece) -> None:
        files.write(piece, self._draft)
        for name in piece.files:
            sync(self._draft / name)

    def _write_at_once(self) -> None:
        """Adapters, which are small, or a model with merged adapters."""
        model = self._model
        if self._is_adapter:
            write_adapters(self._draft, model, self._checkpoint, self._recipe)
            _keep_configs_apart(self._run_dir / MODEL, self._draft)
            return
        merged = merged_model(model.config, type(model), self._checkpoint, self._recipe, model.dtype)
        if merged.can_generate():
            merged.generation_config = model.generation_config
        merged.save_pretrained(self._draft, max_shard_size=self._max_file_bytes)


def write_together(exports: Sequence[Export], ranks: Ranks, is_stop_requested: Callable[[], bool]) -> None:
    """Collective: writes the exports, whose files are dealt out to the ranks.

    Raises CheckpointError, or StopAsked on every rank if one was asked to stop before its last file was begun.
    """
    pieces = [write for export in exports for write in export.pieces()]

    def write_share() -> bool:
        """Writes this rank's files; whether all were written."""
        for write in pieces[ranks.rank :: ranks.world_size]:
            if is_stop_requested():
                return False
            write()
        return True

    def on_rank_zero(work: Callable[[Export], None]) -> None:
        def each() -> None:
            for export in exports if ranks.is_zero else ():
                work(export)

        run_on_every_rank(ranks, each)

    on_rank_zero(Export.begin)
    if not all(run_on_every_rank(ranks, write_share)):
        raise StopAsked
    on_rank_zero(Export.publish)


def copy_export(source: Path, folder: Path) -> None:
    """The export in `source` once more as `folder`, which it replaces: hard links to the weights where the file system
    has them, and copies of the small files, which people edit."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, copy_function=_link_weights)
    publish(draft, folder)


def _link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        link_or_copy(Path(source), Path(target))
    else:
        shutil.copyfile(source, target)


def publish(draft: Path, folder: Path) -> None:
    """Makes the draft, complete and on disk, the export in `folder`, which it replaces. Raises OSError."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    for path in draft.rglob("*"):
        if path.is_file():
            follow_umask(path)  # safetensors 0.8 makes its files readable by the owner alone
        sync(path)
    sync(draft)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write_configs(model: Any, folder: Path) -> None:
    """The configs, as `save_pretrained` writes them."""
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _keep_configs_apart(source: Path, draft: Path) -> None:
    """Copies the configs into a subfolder, because transformers expects a whole model beside a config.json."""
    (draft / MODEL).mkdir()
    for name in CONFIGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, draft / MODEL / name)


def empty_model(run_dir: Path, dtype: torch.dtype) -> Any:
    """A model of the trained model's class and config on the meta device."""
    folder = run_dir / MODEL
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist yet; `{shell_line('run', run_dir)}` resumes the run")
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = model_class(config)(config)
        model.to(dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def _results_of(run_dir: Path, checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    if not (run_dir / RESULTS).is_file():
        return None
    results: dict[str, Any] = json.loads((run_dir / RESULTS).read_text(encoding="utf-8"))
    is_mean = bool(results.get("average_last", {}).get("is_best"))
    is_best = results["best_step"] == checkpoint.step and is_mean == (checkpoint.path.parent.name == AVERAGED)
    return results if is_best else None


if __name__ == "__main__":
    run_piped(main)
