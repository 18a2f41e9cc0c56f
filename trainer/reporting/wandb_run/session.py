"""One W&B run as this process has it open: the only module that imports wandb.

Everything that leaves here is free of secrets, and nothing here waits for the server without end.
"""

import contextlib
import logging
import os
import signal
import ssl
import threading
import time
import uuid
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np

from shardtune.redaction import Redactor, redactor
from shardtune.run_dir.files import WANDB_BEHIND, write_atomically
from shardtune.trainer.reporting.wandb_run.choice import WandbChoice, give_wandb_a_home
from shardtune.trainer.reporting.wandb_run.keys import AXES, Row, best_of
from shardtune.trainer.reporting.wandb_run.tables import ConfusionTable, Counts, Media, SampleTable

log = logging.getLogger(__name__)

ANSWER_S = 8.0
"""How long the server may take to answer at all, before the run is kept offline."""
START_S = 12.0
"""How long it may take to create the run."""
FINISH_S = 12.0
"""How long the rest may be uploaded at the end of a start."""
UPLOAD_S = 600.0
"""How long if that is what is waited for: files that the recipe asked for, or `shardtune sync`."""
TEAR_DOWN_S = 3.0
"""How long wandb may take to notice that its process is gone."""
MOST_ALERTS = 20
"""Alerts that a start sends: each is an e-mail or a message to a team."""
ALERT_PAUSE_S = 600
"""Shortest time between two alerts with the same title."""
_OPTIONAL: Mapping[str, Any] = {
    "login_timeout": ANSWER_S,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": 2.0,
    "x_save_requirements": False,
}
"""Settings that not every version of wandb has."""


class Session:
    """A W&B run that is open: rows, tables, alerts, files."""

    def __init__(self, run: Any, mode: str, hidden: Redactor) -> None:
        self._run, self.mode, self._hidden = run, mode, hidden
        self._first_number: int = getattr(run, "starting_step", 0)
        self._defined: set[str] = set()
        self._alerted: dict[str, float] = {}
        self._num_alerts = 0

    def log(self, row: Row, media: Mapping[str, Media] | None = None) -> bool:
        """Adds a row to the history; returns whether W&B had not got it already, by its number."""
        if row.number < self._first_number:
            return False
        for key in row.values.keys() - self._defined - set(AXES):
            self._defined.add(key)
            if (best := best_of(key)) is not None:
                self._run.define_metric(key, step_metric=AXES[0], summary=f"{best},last")
        values = self._hidden.value(row.values) | {key: self._drawn(each) for key, each in (media or {}).items()}
        if row.time is not None:
            values["_timestamp"] = row.time
        self._run.log(values, step=row.number, commit=True)
        return True

    def alert(self, title: str, text: str, *, is_error: bool = False, is_last: bool = False) -> None:
        """Sends an alert, unless the same was sent a short time ago, or this start has sent too many and it is not the
        last."""
        now = time.monotonic()
        if (self._num_alerts >= MOST_ALERTS and not is_last) or now - self._alerted.get(
            title, -ALERT_PAUSE_S
        ) < ALERT_PAUSE_S:
            return
        self._alerted[title] = now
        self._num_alerts += 1
        self._run.alert(self._hidden.text(title), self._hidden.text(text), level="ERROR" if is_error else "WARN")

    def configure(self, values: Mapping[str, Any]) -> None:
        """Adds to the configuration of the run."""
        self._run.config.update(self._hidden.value(values), allow_val_change=True)

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Adds to the summary of the run."""
        self._run.summary.update(self._hidden.value(values))

    def add_files(self, name: str, kind: str, path: Path, facts: Mapping[str, Any]) -> None:
        """Adds an artifact of this file, or of all files in this folder."""
        import wandb

        artifact = wandb.Artifact(name, type=kind, metadata=self._hidden.value(facts))
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self, *, failed: bool = False) -> None:
        """Uploads the rest, within the time that was given for it, and ends wandb's own process.

        Raises TimeoutError if that was not enough; everything is on disk then.
        """
        import wandb

        try:
            self._run.finish(exit_code=1 if failed else 0)
        finally:
            wandb.teardown()

    def _drawn(self, media: Media) -> Any:
        import wandb

        if isinstance(media, SampleTable):
            columns: list[str | int] = [*media.columns]
            return wandb.Table(columns=columns, data=self._hidden.value(media.rows))
        if isinstance(media, ConfusionTable):
            names = ["Actual", "Predicted", "nPredictions"]
            table = wandb.Table(columns=[*names], data=self._hidden.value(media.rows))
            fields = {name: name for name in names}
            return wandb.plot_table("wandb/confusion_matrix/v1", table, fields, {"title": "Confusion matrix"})
        assert isinstance(media, Counts)
        return wandb.Histogram(np_histogram=(np.asarray(media.counts), np.asarray(media.edges)))


def open_session(
    run_dir: Path, choice: WandbChoice, config: Mapping[str, Any], *, finish_s: float = FINISH_S
) -> Session:
    """The W&B run of this run directory: online if that was chosen and the server answers, else offline. Its end waits
    for the upload of the rest, `finish_s` at most.

    Raises whatever wandb raises.
    """
    give_wandb_a_home(run_dir)
    # Reports on wandb itself, which its process sends to the server: it waits for their answer at the end.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if choice.mode == "online" and (fault := server_fault(choice.server)) is not None:
        log.warning("W&B: %s; this start is kept offline", fault)
        return _open(run_dir, choice, config, "offline", finish_s)
    try:
        return _open(run_dir, choice, config, choice.mode, finish_s)
    except Exception as error:
        if choice.mode != "online":
            raise
        log.warning("W&B: %s: %s; this start is kept offline", type(error).__name__, error)
        end_wandb_core()  # which still has the run that could not be created
        return _open(run_dir, choice, config, "offline", finish_s)


def _open(run_dir: Path, choice: WandbChoice, config: Mapping[str, Any], mode: str, finish_s: float) -> Session:
    import wandb

    hidden = redactor()
    known = wandb.Settings.model_fields
    given: dict[str, Any] = {"console": "off", "silent": True, "init_timeout": START_S, "disable_git": True}
    optional = {**_OPTIONAL, "finish_timeout": finish_s}
    given |= {name: value for name, value in optional.items() if name in known}
    run = wandb.init(
        id=wandb_id(run_dir),
        entity=choice.entity,
        project=hidden.text(choice.project),
        name=hidden.text(choice.name),
        group=None if choice.group is None else hidden.text(choice.group),
        tags=[hidden.text(tag) for tag in choice.tags],
        notes=None if choice.notes is None else hidden.text(choice.notes),
        job_type=hidden.text(choice.job_type),
        config=hidden.value(config),
        dir=str(choice.folder.parent),
        mode=mode,  # type: ignore[arg-type]
        resume="allow",
        settings=wandb.Settings(**given),
    )
    for axis in AXES:
        run.define_metric(axis)
    run.define_metric("*", step_metric=AXES[0])
    return Session(run, mode, hidden)


def wandb_id(run_dir: Path) -> str:
    """The W&B id of this run directory; created on the first call."""
    path = run_dir / "wandb_id"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex[:8])
    return path.read_text(encoding="utf-8").strip()


def behind_path(run_dir: Path) -> Path:
    """The file that says that W&B has less of the run than metrics.jsonl."""
    return run_dir / WANDB_BEHIND


def server_fault(server: str) -> str | None:
    """Why there is no W&B server at this address; None if one answers within ANSWER_S, whatever it says of the key."""
    request = Request(f"{server.rstrip('/')}/graphql", data=b"{}", headers={"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=ANSWER_S):
            return None
    except HTTPError as error:
        with contextlib.suppress(OSError):
            error.close()
        return f"{server} answers with {error.code}" if error.code >= 500 else None
    except TimeoutError:
        return f"{server} does not answer within {ANSWER_S:g} s"
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            return f"{server} does not answer within {ANSWER_S:g} s"
        # What only Python's own client refuses, such as a certificate, wandb may know how to accept.
        return None if isinstance(error.reason, ssl.SSLError) else f"{server}: {error.reason}"
    except (OSError, ValueError, HTTPException) as error:
        return f"{server}: {error}"


def end_wandb_core() -> None:
    """Ends wandb's own processes that this process has started, which may wait for a server for days."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text(encoding="ascii", errors="replace").partition("(")[2].rpartition(")")
            if name.startswith("wandb-core") and int(rest.split()[1]) == os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)
    # What wandb itself would wait for at the exit of this process; in a thread, because it may hold a lock just now.
    ending = threading.Thread(target=_tear_down, daemon=True)
    ending.start()
    ending.join(TEAR_DOWN_S)


def _tear_down() -> None:
    import wandb

    with contextlib.suppress(Exception):  # its connection is gone
        wandb.teardown()


def default_entity() -> str | None:
    """Who the API key belongs to, as the server says."""
    import wandb

    entity: str | None = wandb.Api().default_entity
    return entity
