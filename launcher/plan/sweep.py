"""A recipe and the keys to vary -> the points of a sweep, each a recipe with a run directory of its own."""

import itertools
import json
import math
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from shardtune.counted import counted
from shardtune.errors import ConfigError
from shardtune.launcher.registry import remember
from shardtune.recipe.load import learning_hash, load_recipe, parse_override
from shardtune.recipe.schema import Recipe
from shardtune.recipe.yaml_lines import YamlError, read_yaml
from shardtune.run_dir.files import CONFIG, absolute, write_atomically
from shardtune.run_dir.run import Run, refuse_another_recipe, write_run_dir
from shardtune.shell_line import shell_line

SWEEP = "sweep.json"
"""The file that lists the points, and marks a folder as the directory of a sweep."""
Kind = Literal["sweep", "seeds", "fractions"]
PREFIXES: dict[str, str] = {"sweep": "", "seeds": "seed-", "fractions": "part-"}
"""What a sweep is of -> what the name of a point's directory has before its number, as slurm/sweep.sh knows too."""
MOST_NUMBER = 1000
"""The highest number of a task of a job array by Slurm's default (MaxArraySize 1001)."""
MOST_POINTS = 1000
"""Slurm's default limit of tasks in a job array (MaxArraySize)."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    number: int
    overrides: tuple[str, ...]
    """The keys that distinguish it from other points, such as optim.lr=1e-5."""
    recipe: Recipe
    run_dir: Path


@dataclass(frozen=True)
class SweepPlan:
    """All points that will be trained."""

    recipe_path: Path
    sweep_dir: Path
    points: tuple[Point, ...]
    kind: Kind = "sweep"
    is_loaded: bool = field(default=False, compare=False)
    """Whether it was found in its directory, so that the points' recipes are as they lie there."""

    def point(self, number: int) -> Point:
        """The point of this number: of train.seeds, the seed."""
        return next(point for point in self.points if point.number == number)

    @property
    def to_resume(self) -> str:
        """The command that resumes it."""
        return shell_line("sweep" if self.kind == "sweep" else "run", self.sweep_dir)

    def run_of(self, point: Point) -> Run:
        """The run that trains a point."""
        return Run(point.recipe, point.run_dir, point.run_dir if self.is_loaded else self.recipe_path)

    def describe(self) -> str:
        """The plan in readable form (`shardtune sweep --dry-run`)."""
        lines = [f"{point.number:3}  {' '.join(point.overrides)}" for point in self.points]
        noun = "point" if self.kind == "sweep" else "run"
        return "\n".join([f"{counted(len(self.points), noun)} in {self.sweep_dir}", *lines])

    def as_json(self) -> str:
        """The content of SWEEP_DIR/sweep.json."""
        points = [{"number": point.number, "overrides": point.overrides} for point in self.points]
        content = {"recipe": str(self.recipe_path), "kind": self.kind, "points": points}
        return json.dumps(content, indent=1, ensure_ascii=False)


def plan_sweep(
    path: Path,
    overrides: Sequence[str],
    sweep_dir: Path | None,
    variations: Sequence[Sequence[str]],
) -> SweepPlan:
    """Plans a sweep with a point for each variation, which is a list of overrides; of a recipe with train.seeds, for
    each variation and seed.

    Raises ConfigError, with a line for each fault of any point, or CheckpointError if a point's directory belongs to
    another recipe.
    """
    _refuse_number(len(variations))
    drafts = drafts_of(path, overrides, variations)
    _refuse_number(len(drafts))
    hashes = [learning_hash(draft.recipe) for draft in drafts]
    for number, recipe_hash in enumerate(hashes):
        if (first := hashes.index(recipe_hash)) != number:
            raise ConfigError(
                f"points {first} ({' '.join(drafts[first].overrides)}) and {number} "
                f"({' '.join(drafts[number].overrides)}) would train the same model; vary a key that changes the "
                "training, or train.seed"
            )
    if sweep_dir is None:
        sweep_dir = Path("runs") / f"{path.stem}-sweep-{sha256(' '.join(hashes).encode()).hexdigest()[:8]}"
    return lay_out("sweep", path, sweep_dir, dict(enumerate(drafts)))


@dataclass(frozen=True)
class Draft:
    """What a point trains, before it has a directory."""

    overrides: tuple[str, ...]
    recipe: Recipe


def drafts_of(path: Path, overrides: Sequence[str], variations: Sequence[Sequence[str]]) -> list[Draft]:
    """What each variation trains, with each of its train.seeds. Raises ConfigError."""
    recipes = _load(path, overrides, variations)
    drafts = (Draft(tuple(variation), recipe) for variation, recipe in zip(variations, recipes, strict=True))
    return [each for draft in drafts for each in seed_drafts(draft)]


def seed_drafts(draft: Draft) -> list[Draft]:
    """The draft with each of its train.seeds; itself if it has none."""
    if draft.recipe.train.seeds is None:
        return [draft]
    return [
        Draft((*draft.overrides, f"train.seed={seed}"), with_seed(draft.recipe, seed))
        for seed in draft.recipe.train.seeds
    ]


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with this one seed."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed, "seeds": None})})


def lay_out(kind: Kind, path: Path, sweep_dir: Path, drafts: Mapping[int, Draft]) -> SweepPlan:
    """The plan of these points, by their numbers. Raises CheckpointError if a point's directory belongs to another
    recipe."""
    sweep_dir = absolute(sweep_dir)
    points = tuple(
        Point(number, draft.overrides, _named(draft, sweep_dir, kind, number), sweep_dir / f"{PREFIXES[kind]}{number}")
        for number, draft in drafts.items()
    )
    for point in points:
        refuse_another_recipe(point.recipe, point.run_dir)
    return SweepPlan(path.absolute(), sweep_dir, points, kind)


def _refuse_number(num_points: int) -> None:
    if not 0 < num_points <= MOST_POINTS:
        raise ConfigError(f"a sweep has 1 to {MOST_POINTS} points, got {num_points}; --random=N draws N of them")


def point_dirs(sweep_dir: Path) -> list[Path]:
    """The run directories of the points of the sweep in a directory, in order."""
    kept = json.loads((sweep_dir / SWEEP).read_text(encoding="utf-8"))
    prefix = PREFIXES[kept.get("kind", "sweep")]
    return [absolute(sweep_dir) / f"{prefix}{point['number']}" for point in kept["points"]]


def refuse_sweep(folder: Path) -> None:
    """Raises ConfigError for the directory of several runs where one run is asked for."""
    if (folder / SWEEP).is_file():
        raise ConfigError(
            f"{folder} holds several runs; name one, such as {point_dirs(folder)[0]}; mean and spread of all: "
            f"{shell_line('report', folder)}"
        )


def load_sweep(sweep_dir: Path) -> SweepPlan:
    """Loads the sweep in a directory. Raises ConfigError if the directory holds none, or a damaged one."""
    sweep_dir = absolute(sweep_dir)
    if not (sweep_dir / SWEEP).is_file():
        raise ConfigError(f"{sweep_dir}: not the directory of a sweep (no {SWEEP}); give a recipe")
    try:
        kept = json.loads((sweep_dir / SWEEP).read_text(encoding="utf-8"))
        listed = [(int(point["number"]), tuple(map(str, point["overrides"]))) for point in kept["points"]]
        recipe_path = Path(kept["recipe"])
        kind: Kind = kept.get("kind", "sweep")
        dirs = [sweep_dir / f"{PREFIXES[kind]}{number}" for number, _ in listed]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{sweep_dir / SWEEP} is damaged ({error!r}); write the sweep anew") from None
    points = [
        Point(number, overrides, load_recipe(run_dir / CONFIG), run_dir)
        for (number, overrides), run_dir in zip(listed, dirs, strict=True)
    ]
    return SweepPlan(recipe_path, sweep_dir, tuple(points), kind, is_loaded=True)


def write_sweep(sweep: SweepPlan, numbers: Collection[int] | None = None) -> None:
    """Writes the directory of the sweep and the run directories of its points; with `numbers`, of points that have one
    already only these, because others may be training."""
    for point in sweep.points:
        if numbers is None or point.number in numbers or not (point.run_dir / CONFIG).is_file():
            write_run_dir(sweep.run_of(point))
    write_atomically(sweep.sweep_dir / SWEEP, sweep.as_json())
    remember(*(point.run_dir for point in sweep.points))


def grid(axes: Sequence[str]) -> list[list[str]]:
    """`["optim.lr=1e-5,2e-5", "train.seed=1,2"]` -> the overrides of all four points.

    Raises ConfigError for an axis that is not such a list.
    """
    return [list(point) for point in itertools.product(*map(_values, axes))]


def drawn(axes: Sequence[str], num_points: int, *, seed: int = 0) -> list[list[str]]:
    """Draws points from the axes, the same ones for the same seed; an axis may be a range, `optim.lr=1e-6..1e-4`.

    Whole numbers are drawn uniformly. Other numbers are too, unless the range is positive and spans a factor of 10:
    then their logarithm is uniform. No point is drawn twice, so that a small grid may give fewer than num_points.
    """
    generator = random.Random(seed)
    ranges = [_range(axis) or _values(axis) for axis in axes]
    points: dict[tuple[str, ...], None] = {}
    for _ in range(100 * num_points):
        if len(points) == num_points:
            break
        drawn_values = (axis.draw(generator) if isinstance(axis, _Range) else generator.choice(axis) for axis in ranges)
        points[tuple(drawn_values)] = None
    return [list(point) for point in points]


def points_of(text: str, *, name: str) -> list[list[str]]:
    """A YAML list of mappings, `- {optim.lr: 1e-5, train.seed: 1}`, -> the overrides of each point.

    Raises ConfigError for any other text.
    """
    try:
        value = read_yaml(text).value
    except YamlError as error:
        raise ConfigError(f"{name}:{error.line}: {error.what}") from None
    if not isinstance(value, list) or not all(isinstance(point, dict) and point for point in value):
        raise ConfigError(f"{name}: expected a list of points such as `- {{optim.lr: 1e-5, train.seed: 1}}`")
    return [[f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in point.items()] for point in value]


@dataclass(frozen=True)
class _Range:
    key: str
    low: float
    high: float
    whole: bool

    def draw(self, generator: random.Random) -> str:
        if self.whole:
            return f"{self.key}={generator.randint(int(self.low), int(self.high))}"
        if self.low > 0 and self.high >= 10 * self.low:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = generator.uniform(self.low, self.high)
        return f"{self.key}={value:.3g}"


def _range(axis: str) -> _Range | None:
    key, _, text = axis.partition("=")
    low, dots, high = text.partition("..")
    if not dots:
        return None
    try:
        span = _Range(key, float(low), float(high), re.fullmatch(r"-?\d+\.\.-?\d+", text) is not None)
    except ValueError:
        raise ConfigError(f"{axis}: expected key=LOW..HIGH, such as optim.lr=1e-6..1e-4") from None
    if not -math.inf < span.low < span.high < math.inf:
        raise ConfigError(f"{axis}: the second number must be greater than the first, and both finite")
    return span


def _values(axis: str) -> list[str]:
    key, equals, text = axis.partition("=")
    if re.fullmatch(r"[^\[{'\"]*\.\.[^\[{'\"]*", text) and "/" not in text:
        raise ConfigError(f"{axis}: a range needs --random=N; a grid needs values: {key}=A,B,C")
    values = split_values(text) if equals else []
    for value in values:
        try:
            parse_override(f"{key}={value}")
        except ConfigError as error:
            raise ConfigError(f"{axis}: {error}") from None
    if not values:
        raise ConfigError(f"{axis}: expected key=A,B,C, such as optim.lr=1e-5,2e-5")
    return [f"{key}={value}" for value in values]


def split_values(text: str) -> list[str]:
    """`1,[2,3],"a,b"` -> three values: a comma in brackets or quotes does not separate."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += letter
    return values if text else []


def _load(path: Path, overrides: Sequence[str], variations: Sequence[Sequence[str]]) -> list[Recipe]:
    recipes, faults = [], {}
    for number, variation in enumerate(variations):
        try:
            recipes.append(load_recipe(path, [*overrides, *variation]))
        except ConfigError as error:  # most points have the same faults: each is reported once
            faults.update({line: f"point {number}: {line}" for line in str(error).split("\n") if line not in faults})
    if faults:
        raise ConfigError("\n".join(faults.values()))
    return recipes


def _named(draft: Draft, sweep_dir: Path, kind: Kind, number: int) -> Recipe:
    """The recipe with a W&B name that identifies the point, and the sweep's name as W&B group unless it has one."""
    overrides = () if kind == "seeds" else draft.overrides
    report = draft.recipe.report
    changed = {"group": report.group or sweep_dir.name, "name": " ".join([f"{PREFIXES[kind]}{number}", *overrides])}
    return draft.recipe.model_copy(update={"report": report.model_copy(update=changed)})
