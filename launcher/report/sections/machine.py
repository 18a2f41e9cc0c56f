"""Where the run was and where its time went: lost time, the slowest ranks, plan and reality, environment."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shardtune.ds_config.resolve import sharding_name
from shardtune.launcher.report.parts import Figure, Part, Table
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.sections.summary import device_name, newest_environment
from shardtune.run_dir.view.event_lines import Event
from shardtune.run_dir.view.predicted import HEAD, compare
from shardtune.run_dir.view.waterfall import render_waterfall

MOST_NAMED = 20
"""Hosts and jobs that are named."""


def time_parts(record: RunRecord) -> list[Part]:
    """The waterfall, the slowest ranks, and what was predicted."""
    drawn = render_waterfall(record.time_use) if record.last_step else ""
    parts: list[Part] = [Figure([drawn], is_wide=True)] if drawn else []
    return [*parts, *(table for table in (_stragglers(record), _predicted(record)) if table is not None)]


def speed_line(record: RunRecord) -> str:
    """MFU, padding and data wait of the steps; empty for runs of versions that did not measure them."""
    steps = record.history.steps
    if not {"data_wait_s", "padding_efficiency"} <= set(steps) or not np.isfinite(steps["data_wait_s"]).any():
        return ""
    real, waited_s = (float(np.nanmean(steps[key])) for key in ("padding_efficiency", "data_wait_s"))
    mfu = steps.get("mfu", np.empty(0))
    parts = [f"{float(np.nanmean(mfu)):.1%} MFU"] if np.isfinite(mfu).any() else []
    parts += [f"{real:.1%} of the tokens are not padding", f"{1000 * waited_s:.2f} ms data wait per step"]
    return " · ".join(parts)


def _stragglers(record: RunRecord, num_named: int = 3) -> Table | None:
    """The ranks that the others waited for most; None for a run on a single rank."""
    shares = record.history.of_steps("lost_share")[1]
    most = sorted(record.history.waited_for.items(), key=lambda item: -item[1])[:num_named]
    rows = [(name, f"{share / max(1, len(shares)):.1%}") for name, share in most]
    return Table("Time lost waiting for a rank", ("slowest rank", "share of all ranks' time"), rows) if rows else None


def _predicted(record: RunRecord) -> Table | None:
    """What the planner predicted, beside the real numbers; None without a prediction."""
    if record.plan is None or not record.last_step:
        return None
    rows = [each.cells() for each in compare(record.plan, record.history.events, _typical(record))]
    return Table("Predicted and real", HEAD, rows, has_row_heads=True) if rows else None


def _typical(record: RunRecord) -> Event:
    """The medians of the steps since the newest start, and the highest memory."""
    steps = record.history.steps
    is_new = steps["step"] > (record.start or {}).get("step", 0)
    new = {key: column[is_new] for key, column in steps.items()}
    found: Event = {
        key: float(np.nanmedian(new[key]))
        for key in ("step_time_s", "tokens_per_s")
        if key in new and np.isfinite(new[key]).any()
    }
    if "memory_bytes" in new and np.isfinite(new["memory_bytes"]).any():
        found["memory_bytes"] = float(np.nanmax(new["memory_bytes"]))
    return found


def environment(record: RunRecord) -> list[Part]:
    """Ranks, devices, hosts, code and versions, as far as the run wrote them."""
    found = newest_environment(record)
    rows = [*_layout(record), *_places(record, found)]
    versions = found.get("versions")
    versions = versions if isinstance(versions, dict) else record.manifest.get("versions") or {}
    rows += [(package, str(number)) for package, number in versions.items()]
    return [Table("Machine and versions", ("", "value"), rows, has_row_heads=True)] if rows else []


def _layout(record: RunRecord) -> Iterator[tuple[str, str]]:
    start = record.start or {}
    if "world_size" in start:
        yield "ranks", f"{start['world_size']} on {device_name(record)}"
    if "zero_stage" in start:
        yield "sharding", sharding_name(start["zero_stage"])
    for key in ("precision", "attention"):
        if key in start:
            yield key, str(start[key])
    if "packed" in start:
        yield "packed rows", "yes" if start["packed"] else "no"


def _places(record: RunRecord, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Devices, hosts, the commit and the jobs; `found` is the `environment` event."""
    if isinstance(devices := found.get("devices"), dict) and devices:
        yield "devices", ", ".join(f"{number} x {name}" for name, number in devices.items())
    seen = {name.partition("(")[2].rpartition(")")[0].partition(",")[0] for name in record.history.waited_for}
    hosts = found.get("hosts") or sorted(seen)
    if isinstance(hosts, list) and hosts:
        more = f" and {len(hosts) - MOST_NAMED} more" if len(hosts) > MOST_NAMED else ""
        yield "hosts", ", ".join(map(str, hosts[:MOST_NAMED])) + more
    if found.get("platform"):
        yield "platform", str(found["platform"])
    if commit := commit_of(record):
        yield "git commit", commit
    jobs = list(dict.fromkeys(str(event["job"]) for event in record.history.of("begin") if event.get("job")))
    if jobs:
        yield "jobs", ", ".join(jobs[-MOST_NAMED:])


def commit_of(record: RunRecord) -> str:
    """The commit that the newest start ran in; empty if it is not known."""
    git = newest_environment(record).get("git")
    if not isinstance(git, dict) or not git.get("commit"):
        return ""
    return f"{git['commit']}{', with changes that are not committed' if git.get('dirty') else ''}"
