"""The mean of the last checkpoints, as a candidate for the best model (checkpoint.average_last).

Checkpoint averaging as in Vaswani et al., 2017, "Attention is all you need", section 6.1: stochastic weight averaging
(Izmailov et al., 2018, "Averaging weights leads to wider optima and better generalization") without its schedule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardtune.counted import counted
from shardtune.run_dir.files import AVERAGED
from shardtune.trainer.between_steps.evaluator import Evaluator
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, publish_folder
from shardtune.trainer.checkpoint.manifest import WEIGHTS, Checkpoint, FileRecord, Manifest, rankable, record_file
from shardtune.trainer.checkpoint.mean import mean_of
from shardtune.trainer.checkpoint.resume import first_whole
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.background import run_on_every_rank, run_on_zero
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.snapshot import write_fragments
from shardtune.trainer.evaluation.evaluate import without_answers


@dataclass(frozen=True)
class Averaged:
    """The mean of the last checkpoints, which the engine has now."""

    steps: tuple[int, ...]
    dev_metrics: Mapping[str, Any]
    checkpoint: Checkpoint | None
    """Its weights; None if it is not better than the best model."""

    def as_results(self) -> dict[str, Any]:
        """What results.json says of it."""
        return {"steps": list(self.steps), "is_best": self.checkpoint is not None, "dev": dict(self.dev_metrics)}


@dataclass(frozen=True, kw_only=True)
class LastCheckpoints:
    """Averages the newest `number` checkpoints in a folder."""

    number: int
    folder: Path
    dev: Split
    policy: CheckpointPolicy
    engine: Engine
    evaluator: Evaluator

    def average(self, complete: Sequence[Checkpoint], best: Checkpoint) -> Averaged | None:
        """Collective: averages the last of rank 0's `complete` checkpoints, and keeps the mean if it is better on dev
        than the best one. None if there are not enough.

        Raises StopAsked, and CheckpointError if one of them cannot be read.
        """
        ranks, report = self.evaluator.ranks, self.evaluator.reporter.report
        paths = ranks.from_zero([checkpoint.path for checkpoint in complete][-self.number :])
        found = [first_whole([Checkpoint(path)], ranks) for path in paths]
        last = [checkpoint for checkpoint in found if checkpoint is not None]
        if len(last) < self.number:
            are = "is" if len(last) == 1 else "are"
            text = f"checkpoint.average_last: there {are} only {counted(len(last), 'intact checkpoint')}"
            report("notice", text=f"{text}; nothing is averaged")
            return None
        self.engine.restore(mean_of(last))
        step = last[-1].step
        metrics = without_answers(self.evaluator.measure("dev", self.dev))
        value, before = rankable(metrics, self.policy.metric), best.manifest.metric(self.policy.metric)
        sign = -1 if self.policy.lower_is_better else 1
        is_better = value is not None and (before is None or sign * value > sign * before)
        steps = tuple(checkpoint.step for checkpoint in last)
        listed = f"the mean of the checkpoints of steps {', '.join(f'{one:,}' for one in steps)}"
        than = "not better than" if not is_better else "better than"
        rest = "it is the best model" if is_better else "it is dropped"
        report(
            "notice",
            text=f"{listed} has {self.policy.metric} {_shown(value)} on dev, {than} the best model "
            f"({_shown(before)} at step {best.step:,}): {rest} (checkpoint.average_last)",
        )
        kept = self._keep(replace(last[-1].manifest, dev_metrics=metrics), step) if is_better else None
        return Averaged(steps, metrics, kept)

    def _keep(self, manifest: Manifest, step: int) -> Checkpoint:
        """Collective: writes the weights that the engine has as a checkpoint apart from those of the training."""
        ranks = self.evaluator.ranks
        final = self.folder / AVERAGED / f"step-{step}"
        draft = final.with_name(f".{final.name}")
        fragments = self.engine.snapshot().weights
        run_on_zero(ranks, lambda: draft.mkdir(parents=True, exist_ok=True))

        def write() -> dict[str, FileRecord]:
            name = f"{WEIGHTS}-{ranks.rank:05}-of-{ranks.world_size:05}.safetensors"
            write_fragments(draft / name, fragments)
            return {name: record_file(draft / name)}

        files = {name: record for of_rank in run_on_every_rank(ranks, write) for name, record in of_rank.items()}
        whole = replace(manifest, files=files, optimizer_keys=(), optimizer_scalars={})

        def publish() -> None:
            self.evaluator.stop_checks.lease.check_here()
            publish_folder(draft, final, whole)

        run_on_zero(ranks, publish)
        return Checkpoint(final)


def _shown(value: float | None) -> str:
    return "no number" if value is None else f"{value:.6g}"
