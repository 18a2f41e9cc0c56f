"""Where the calibration of this machine and its earlier runs are kept: in the user's state folder, for each machine."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardtune.home import state_folder
from shardtune.json_lines import complete_lines
from shardtune.known_machine.fingerprint import Identity
from shardtune.planner.measured.calibration import Calibration, calibration_of
from shardtune.planner.measured.corrections import PastRun, past_of, past_run
from shardtune.run_dir.files import read_events, write_atomically
from shardtune.run_dir.view.plan_file import read_plan
from shardtune.run_dir.view.predicted import real_numbers

MOST_RUNS = 200
"""Runs that are kept for a machine, the newest."""
CALIBRATION, RUNS, LOCK = "calibration.json", "runs.jsonl", "lock"


@dataclass(frozen=True)
class Known:
    """What is known of a machine."""

    identity: Identity
    calibration: Calibration | None = None
    runs: tuple[PastRun, ...] = ()
    notice: str | None = None
    """What is wrong with the files, in one line."""


def read_known(identity: Identity) -> Known:
    """What is known of this machine. Files that cannot be used are ignored, with a notice."""
    known = Known(identity)
    try:
        folder = _folder(identity)
    except RuntimeError:  # no home
        return known
    try:
        calibration, fault = _calibration(folder / CALIBRATION, identity), None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        calibration = None
        fault = f"{folder / CALIBRATION} is ignored: {reason}; `shardtune plan --calibrate` writes it anew"
    if calibration is None and fault is None:
        fault = _of_other_versions(identity)
    return replace(known, calibration=calibration, runs=tuple(_runs(folder / RUNS)), notice=fault)


def _calibration(path: Path, identity: Identity) -> Calibration | None:
    """The calibration in a file; None without one. Raises OSError, or ValueError for what is no calibration of this
    machine."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from None
    found = calibration_of(content)
    if found.machine != identity.fingerprint:
        raise ValueError("it is of another machine")
    return found


def _of_other_versions(identity: Identity) -> str | None:
    """One line if these processors were calibrated with another version of torch, or other GPUs or cores."""
    for path in sorted(_folder(identity).parent.glob(f"*/{CALIBRATION}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            other = json.loads(path.read_text(encoding="utf-8"))["identity"]
            if other["cpu"] == identity.cpu:
                was = Identity(**other)
                return f"the calibration of {was} is not of this machine ({identity}); run `shardtune plan --calibrate`"
    return None


def keep_calibration(identity: Identity, calibration: Calibration) -> Path:
    """Writes the calibration; returns the file. Raises OSError, and RuntimeError if this user has no home."""
    folder = _folder(identity)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {"identity": vars(identity), **calibration.as_json()}
    write_atomically(folder / CALIBRATION, json.dumps(content))
    return folder / CALIBRATION


def learn_from(run_dir: Path) -> None:
    """Keeps how a run that has ended compares with its plan, for later plans on the machine that the plan names."""
    plan = read_plan(run_dir) or {}
    run = past_of(plan, real_numbers(read_events(run_dir)))
    machine = plan.get("machine")
    if run is None or not isinstance(machine, str) or not machine.isalnum():
        return
    with contextlib.suppress(OSError, RuntimeError):  # without a home, or with a full disk, nothing is learned
        folder = state_folder() / "machines" / machine
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may end at once
            lines = [json.dumps(each) for each in _lines(folder / RUNS)]
            kept = [*lines, json.dumps({"run_dir": str(run_dir.absolute()), **run.as_json()})]
            write_atomically(folder / RUNS, "".join(f"{line}\n" for line in _newest_of_each(kept)[-MOST_RUNS:]))


def _newest_of_each(lines: list[str]) -> list[str]:
    """The lines, of those of the same run directory the newest."""
    by_run = {json.loads(line).get("run_dir"): line for line in lines}
    return [line for line in lines if by_run[json.loads(line).get("run_dir")] is line]


def _runs(path: Path) -> Iterator[PastRun]:
    """The runs in a file; lines that are damaged are left out."""
    for line in _lines(path):
        with contextlib.suppress(ValueError):
            yield past_run(line)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError, UnicodeError):
        for line in complete_lines(path) if path.is_file() else ():
            with contextlib.suppress(ValueError):
                if isinstance(value := json.loads(line), dict):
                    yield value


def _folder(identity: Identity) -> Path:
    """The folder of a machine. Raises RuntimeError if this user has no home."""
    return state_folder() / "machines" / identity.fingerprint
