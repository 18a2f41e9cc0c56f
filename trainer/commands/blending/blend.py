"""Blends the tuned model of a finished run with its base model, and exports the best of what lies between.

`python -m shardtune.trainer.commands.blending.blend RUN_DIR [--alphas=0.3,0.5,0.7]`: each model is evaluated on the dev
and test rows of the run, on one rank or on many. With --prepare=FOLDER everything is checked and the rows are prepared,
and with --prepared=FOLDER the ranks, under torchrun, evaluate.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import transformers

from shardtune.argument_parser import OneLineParser
from shardtune.errors import CheckpointError, ConfigError
from shardtune.processes import run_piped
from shardtune.run_dir.files import BLEND, EXPORT, is_finished, write_atomically
from shardtune.run_dir.links import refuse_links
from shardtune.run_dir.run import refuse_other_data
from shardtune.shell_line import shell_line
from shardtune.trainer.commands.blending.choice import Choice, choose
from shardtune.trainer.commands.blending.points import (
    OtherSet,
    evaluate_point,
    keep_other_rows,
    measure_of,
    other_sets,
    retention_sets,
)
from shardtune.trainer.commands.blending.view import as_json, listed, render
from shardtune.trainer.commands.inference.shared_command import PATIENCE, carry_out
from shardtune.trainer.commands.predict import open_task
from shardtune.trainer.commands.quality.judged_runs import facts_of, open_run
from shardtune.trainer.commands.quality.subject import Subject
from shardtune.trainer.data.prepare.prepare import Prepared, prepare
from shardtune.trainer.distributed.background import run_on_zero
from shardtune.trainer.distributed.meeting import meet
from shardtune.trainer.distributed.ranks import Ranks, connect, disconnect
from shardtune.trainer.export.blended.folder import BlendedModels, refuse_changed_base
from shardtune.trainer.retention.preparation import prepare_retention

ALPHAS = "0.3,0.5,0.7"


@dataclass(frozen=True)
class Blending:
    """A finished run, and where the best of its blended models goes."""

    exported: Subject
    folder: Path
    say: Callable[[str], None]

    @cached_property
    def models(self) -> BlendedModels:
        """What lies between the base and the exported model."""
        exported = self.exported
        task, tokenizer, config = open_task(exported.recipe, exported.folder, facts_of(exported))
        return BlendedModels(
            run_dir=exported.given,
            recipe=exported.recipe,
            tuned=exported.folder,
            task=task,
            tokenizer=tokenizer,
            config=config,
            say=self.say,
        )

    @property
    def draft(self) -> Path:
        """Where each model is written before it is evaluated."""
        return self.folder.with_name(f".{self.folder.name}.draft")

    def check(self) -> None:
        """Raises CheckpointError, or another ShardtuneError, for all that can be wrong before anything is computed."""
        run_dir, recipe = self.exported.given, self.exported.recipe
        if not is_finished(run_dir):
            raise CheckpointError(f"{run_dir} is not finished; `{shell_line('run', run_dir)}` resumes it")
        if recipe.data.dev is None:
            raise CheckpointError(
                f"{run_dir}: its recipe has no data.dev, by which the best model would be picked; train with one"
            )
        refuse_changed_base(run_dir, self.exported.folder, recipe, self.say)
        assert self.models.manifest is not None and self.models.kept is not None, "both can be read"

    def prepared(self) -> Prepared:
        """The rows of the run. Raises CheckpointError if they have changed since."""
        prepared = prepare(self.exported.recipe)
        refuse_other_data(self.exported.given, prepared.identity, keep=False)
        return prepared


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, or one rank of it, and returns its exit code."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    arguments = _parse(argv)
    return carry_out(_main, arguments, arguments.prepared)


def _main(arguments: argparse.Namespace) -> None:
    alphas = parse_alphas(arguments.alphas)
    exported = open_run(arguments.run_dir)
    blending = Blending(exported, arguments.out or arguments.run_dir / EXPORT / "blend", _say)
    with ExitStack() as stack:
        folder = arguments.prepared
        if folder is None:
            folder = arguments.prepare or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _prepare(blending, arguments, folder)
        if arguments.prepare is not None:
            return
        ranks = connect(arguments.device, store=meet(PATIENCE), timeout=PATIENCE)
        stack.callback(disconnect)
        if ranks.is_zero:
            stack.callback(shutil.rmtree, blending.draft, ignore_errors=True)
        others = other_sets(measure_of(exported.recipe, blending.models.task), folder)
        others |= retention_sets(exported.recipe, blending.prepared())
        found = blend(blending, alphas, others, ranks)
        ranks.barrier()
    if ranks.is_zero:
        print(json.dumps(found, ensure_ascii=False, indent=1) if arguments.json else render(found))


def _prepare(blending: Blending, arguments: argparse.Namespace, folder: Path) -> None:
    """Checks everything, and prepares the rows."""
    refuse_links(arguments.run_dir)
    if arguments.out is not None and arguments.out.exists() and any(arguments.out.iterdir()):
        raise CheckpointError(f"--out: {arguments.out} is not empty; give a new folder")
    blending.check()
    prepare_retention(blending.exported.recipe, blending.prepared(), say=_say)
    keep_other_rows(blending.exported, arguments.data, folder, _say)


def blend(blending: Blending, alphas: Sequence[float], others: Mapping[str, OtherSet], ranks: Ranks) -> dict[str, Any]:
    """Collective: evaluates the models at these alphas, exports the best, and writes BLEND into the run directory.

    Returns its content. Raises CheckpointError or DataError.
    """
    models, prepared = blending.models, blending.prepared()
    blended = replace(blending.exported, folder=blending.draft)
    points = []
    for number, alpha in enumerate(alphas, start=1):
        if ranks.is_zero:
            _say(f"alpha {alpha:g} ({number} of {len(alphas)})")
        _write(models, blending.draft, alpha, ranks)
        points.append(evaluate_point(blended, prepared, alpha, others, ranks))
    dev, measures = measure_of(models.recipe, models.task), {name: other.measure for name, other in others.items()}
    choice = choose(points, dev, measures)
    _write(models, blending.draft, choice.best, ranks)
    best = next(point for point in points if point.alpha == choice.best)
    kept = run_on_zero(ranks, lambda: models.kept)
    found = as_json(points, choice, dev, measures, kept=kept, folder=blending.folder)

    def publish() -> None:
        models.export(blending.draft, blending.folder, dev=best.dev, test=best.test, note=card_note(choice, kept))
        write_atomically(models.run_dir / BLEND, json.dumps(found, ensure_ascii=False, indent=1))

    run_on_zero(ranks, publish)
    return found


def card_note(choice: Choice, kept: Sequence[str]) -> str:
    """What the model card says of how the weights were blended."""
    ends = {0.0: " (these are those of the base model)", 1.0: " (these are those of the fine-tuned model)"}
    text = (
        f"The weights lie between those of the base model and of the fine-tuned one: base + {choice.best:g} × "
        f"(fine-tuned - base){ends.get(choice.best, '')}, as in WiSE-FT (Wortsman et al., 2022). Of "
        f"{len(choice.scores)} such models this one is the best {choice.rule}."
    )
    return text + (f" Not in the base model, and so as fine-tuned: {listed(kept)}." if kept else "")


def _write(models: BlendedModels, draft: Path, alpha: float, ranks: Ranks) -> None:
    """Collective: rank 0 writes the model at this alpha."""

    def write() -> None:
        try:
            draft.parent.mkdir(parents=True, exist_ok=True)
            models.write(draft, alpha)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise CheckpointError(f"could not write {draft}: {error.strerror or error}") from error

    run_on_zero(ranks, write)


def parse_alphas(text: str) -> list[float]:
    """The numbers of a list such as `0.3,0.5`, with 0 and 1, in rising order. Raises ConfigError."""
    try:
        given = {float(word) for word in text.split(",")}
    except ValueError:
        given = {-1.0}
    if not all(0 <= alpha <= 1 for alpha in given):
        raise ConfigError(
            f"--alphas: expected numbers from 0 (the base) to 1 (the tuned model), as in {ALPHAS}, got {text!r}"
        )
    return sorted(given | {0.0, 1.0})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser("shardtune blend", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run directory")
    parser.add_argument("--alphas", default=ALPHAS, help="where between the base (0) and the tuned model (1)")
    parser.add_argument("--out", type=Path, help="the folder of the best one (default: RUN_DIR/export/blend)")
    parser.add_argument("--data", action="append", default=[], help="labeled rows of another skill")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="what to compute on")
    parser.add_argument("--prepare", type=Path, help="only check, and prepare the rows, in this folder")
    parser.add_argument("--prepared", type=Path, help="the folder in which the rows are prepared")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_piped(main)
