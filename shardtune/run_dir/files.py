"""The files of a run directory: their names, and how to read and write them."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from shardtune.json_lines import json_objects
from shardtune.shell_line import shell_line

CONFIG, RECIPE, RESULTS, METRICS, STOP = "config.yaml", "recipe.yaml", "results.json", "metrics.jsonl", "stop"
REPORT = "report.html"
LEASE = "lease.json"
"""The start that may write the directory (shardtune/run_dir/lease.py)."""
DATA = "data_fingerprint"
"""The fingerprint of the prepared data that the run began on (trainer/data/prepare/prepare.py)."""


CHECKPOINTS, EXPORT = "checkpoints", "export"
AVERAGED = "averaged"
"""Within CHECKPOINTS, the mean of the last ones, if it is the best model (checkpoint.average_last)."""
MODEL = "model"
"""The trained model's config, generation config and tokenizer; together with the weights of a checkpoint, a complete
model."""
PROFILE = "profile"
"""Traces of torch's profiler."""
TEST_ROWS = "test_rows.jsonl"
"""What each test row adds to the metrics of the best model: a line for each, with its loss."""
SUSPECTS = "suspects.jsonl"
"""The rows that look wrong to the model, a line for each, the worst first (`shardtune suspects`)."""
BLEND = "blend.json"
"""What models between the base and the tuned one can do, and which of them is in export/blend (`shardtune blend`)."""
FORKED_FROM = "forked_from.json"
"""In a run directory that was forked from a checkpoint of another one: which one, and how the recipes differ."""
FACTS = "facts.json"
"""What the task derived from the training data, such as label names; predict needs it too."""


READ_AT_ONCE = 2**20
"""Bytes of metrics.jsonl that are parsed together."""


def absolute(path: Path) -> Path:
    """The absolute path of a run directory; one name for one directory, also if it was given with `..`."""
    return path.resolve() if ".." in path.parts else path.absolute()


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The events in metrics.jsonl; an incomplete last line is skipped, and so are lines that are no events."""
    events: list[dict[str, Any]] = []
    with suppress(FileNotFoundError, NotADirectoryError), (run_dir / METRICS).open("rb") as file:
        while lines := file.readlines(READ_AT_ONCE):
            if not lines[-1].endswith(b"\n"):
                lines.pop()
            events += events_in(lines)
    return events


def events_in(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The events in these lines of metrics.jsonl; other lines are skipped."""
    return [event for event in json_objects(lines) if is_event(event)]


def is_event(event: Mapping[str, Any]) -> bool:
    """Whether an object in metrics.jsonl says what happened, and when."""
    return isinstance(event.get("event"), str) and isinstance(event.get("time"), int | float)


EXPORT_PENDING = "export_pending"
"""In results.json until the models are exported: the run is evaluated, but not finished."""


def is_finished(run_dir: Path) -> bool:
    """Whether the run is trained, evaluated and exported."""
    path = run_dir / RESULTS
    return path.exists() and not json.loads(path.read_text(encoding="utf-8")).get(EXPORT_PENDING)


def already_finished(run_dir: Path) -> str:
    """What to say to a command that would train or queue a run whose results exist."""
    return f"{run_dir} is already finished ({RESULTS} exists); to train it again, give another --run-dir or train.seed"


WANDB_BEHIND = "wandb_behind"
"""There as long as an online W&B run has less than metrics.jsonl."""


def wandb_sync_command(run_dir: Path) -> str:
    """The shell command that uploads to W&B what all starts of a run have reported."""
    return shell_line("sync", run_dir)


def write_atomically(path: Path, text: str) -> None:
    """Write the file so that readers find either the old or the new text as a whole, even after a power failure."""
    with published(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """A draft to write to; it becomes `path` when it is complete and on the disk, or is removed after an error.

    It has the permissions that the umask gives. (tempfile's files are for the owner alone, and a process can ask for
    the umask only by changing it, for all of its threads.)
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # Exclusive creation follows no link that somebody else has put there.
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to the file, or a copy where the file system has no such links. Raises OSError."""
    try:
        os.link(source, target)
    except OSError:  # on another file system, or on one without hard links
        shutil.copyfile(source, target)


def follow_umask(path: Path) -> None:
    """Give a file that a library has made for the owner alone the permissions that the umask gives to new files."""
    # os.umask would have to change it to tell it, for all threads.
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    umask = next(line.split()[1] for line in lines if line.startswith("Umask:"))
    path.chmod(0o666 & ~int(umask, 8))


def open_in_place(path: Path, mode: str) -> TextIO:
    """Open a file of a run directory to write to it as it is. Raises OSError if it is a link, which somebody else may
    have put there since the start began."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    return cast(TextIO, open(path, mode, encoding="utf-8", opener=opener))


SAID = "said.txt"
"""In the folder that the ranks of a command share: lines that the launcher says for them at the end."""


def failure_path(run_dir: Path, rank: int | str) -> Path:
    """Where a rank reports why it failed: JSON with rank, host, gpu (the machine's number of it, if it has one), time
    (seconds since the epoch), exit code and text."""
    return run_dir / "logs" / f"rank-{rank}.failure.json"


def failed_rank(record: Mapping[str, Any]) -> str:
    """The rank that reported its failure, and where it ran: `rank 3 on node1 (GPU 5)`."""
    gpu = f" (GPU {record['gpu']})" if "gpu" in record else ""
    return f"rank {record['rank']} on {record['host']}{gpu}"


def stacks_path(run_dir: Path, rank: int | str) -> Path:
    """Where a rank without progress writes the stack traces of its threads."""
    return run_dir / "logs" / f"rank-{rank}.stacks.txt"


def alive_path(run_dir: Path, rank: int | str) -> Path:
    """The file that a rank touches while it makes progress."""
    return run_dir / "logs" / f"rank-{rank}.alive"
