"""What earlier runs on a machine say of a plan: by how much it is usually off for this model and strategy."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from shardtune.planner.job import Job

NEAREST = 5
"""Earlier runs that a plan is corrected by, at most."""
LIMITS = 0.4, 2.5
"""A run that was slower or larger than this was disturbed, or ran on something else: nothing follows from it."""
LEAST_SPREAD = 1.08
"""By which factor a corrected time may still be off: runs of the same recipe on the same machine differ so much."""
OF_ONE = 1.15
"""The same after a single run."""


@dataclass(frozen=True)
class Subject:
    """What a plan is of, as far as its errors are alike."""

    model: str
    """A digest of the sizes of the model."""
    strategy: str
    """engine.deepspeed, and what else decides on the states."""
    precision: str
    device: str
    """`cpu`, or the GPU's name."""
    ranks: int
    tokens: float
    """Of a rank in a step, padding included."""

    def is_like(self, other: "Subject") -> bool:
        """Whether the errors of both may be alike: same model, strategy, precision and device."""
        mine, others = ((one.model, one.strategy, one.precision, one.device) for one in (self, other))
        return mine == others

    def distance(self, other: "Subject") -> tuple[int, float]:
        """How far the other is: first whether it has as many ranks, then by the tokens of a step."""
        return int(self.ranks != other.ranks), abs(math.log(max(self.tokens, 1) / max(other.tokens, 1)))


@dataclass(frozen=True)
class PastRun:
    """A run that has ended, beside what was planned of it without corrections."""

    subject: Subject
    step: float | None
    """The real time of a step, divided by the planned one; None if none was planned."""
    memory: float | None
    """The real peak of memory, divided by the planned one."""

    def as_json(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self)


@dataclass(frozen=True)
class Correction:
    """By which factors plans of this kind are corrected."""

    step: float = 1.0
    memory: float = 1.0
    num_runs: int = 0
    spread: float | None = None
    """By which factor a corrected time may be off both ways; None if times are not corrected."""

    def __str__(self) -> str:
        return f"corrected by {self.num_runs} earlier run{'s' if self.num_runs > 1 else ''} on this machine"


UNCORRECTED = Correction()


def past_run(value: Any) -> PastRun:
    """The inverse of as_json. Raises ValueError for anything else."""
    try:
        subject = Subject(**{field.name: value["subject"][field.name] for field in fields(Subject)})
        ratios = [value[name] for name in ("step", "memory")]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is not a run ({type(error).__name__}: {error})") from None
    if any(ratio is not None and not (isinstance(ratio, int | float) and ratio > 0) for ratio in ratios):
        raise ValueError("a ratio is not above 0")
    return PastRun(subject, *ratios)


def correction_of(runs: Sequence[PastRun], subject: Subject) -> Correction:
    """The correction by the nearest of these runs: the median of their ratios."""
    alike = sorted((run for run in runs if run.subject.is_like(subject)), key=lambda run: subject.distance(run.subject))
    steps = [ratio for run in alike if (ratio := _usable(run.step))][:NEAREST]
    memories = [ratio for run in alike if (ratio := _usable(run.memory))][:NEAREST]
    if not steps and not memories:
        return UNCORRECTED
    step = median(steps) if steps else 1.0
    spread = None
    if steps:
        apart = max(max(ratio / step, step / ratio) for ratio in steps)
        spread = max(LEAST_SPREAD if len(steps) > 1 else OF_ONE, apart)
    return Correction(step, median(memories) if memories else 1.0, max(len(steps), len(memories)), spread)


def _usable(ratio: float | None) -> float | None:
    return ratio if ratio is not None and LIMITS[0] <= ratio <= LIMITS[1] else None


def subject_of(job: Job, strategy: str | None) -> Subject:
    """What a plan of this average job is of."""
    sizes = asdict(job.shape) | {"name": ""}
    if job.adapters is not None:
        sizes["adapters"] = asdict(job.adapters)
    if job.frozen is not None:
        sizes["frozen"] = asdict(job.frozen)
    sizes["software"] = {name: str(value) for name, value in asdict(job.software).items()}
    digest = hashlib.sha256(json.dumps(sizes, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Subject(
        model=digest,
        strategy=strategy or "null",
        precision=job.precision,
        device=job.cluster.gpu.name,
        ranks=job.cluster.world_size,
        tokens=job.tokens * job.batch.num_micro_batches,
    )


def past_of(plan: Mapping[str, Any], real: Mapping[str, float]) -> PastRun | None:
    """A run with this plan.json and these real numbers (`step_s`, `tokens_per_s`, `memory_bytes`); None if its plan
    does not say what it is of, or nothing can be compared.

    Where tokens are counted, the time of a step is compared by their rate, because steps have longer and shorter rows.
    """
    try:
        subject = Subject(**plan["subject"])
    except (KeyError, TypeError):
        return None
    step, memory = (
        _ratio(real.get(name), plan.get(f"uncorrected_{name}", plan.get(name))) for name in ("step_s", "memory_bytes")
    )
    if step is not None and (slower := _ratio(plan.get("tokens_per_s"), real.get("tokens_per_s"))) is not None:
        step = slower * plan.get("step_s", 1.0) / plan.get("uncorrected_step_s", plan.get("step_s", 1.0))
    return None if step is None and memory is None else PastRun(subject, step, memory)


def _ratio(real: Any, planned: Any) -> float | None:
    """The quotient of two numbers above 0; None if one of them is none."""
    if not all(isinstance(number, int | float) and number > 0 for number in (real, planned)):
        return None
    return float(real / planned)
