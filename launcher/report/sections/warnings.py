"""What a reader has to know of a run before believing it: alerts, skipped steps, leaks, settings without effect."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shardtune.counted import counted
from shardtune.launcher.report.record import RunRecord

ALERT, NOTICE = "warning", "notice"
LEAKS = ("leak:", "near duplicates:")
"""How the notes on data begin that are among the warnings already."""
MOST_KINDS = 60
"""So many kinds of alerts and notices are named."""
_NUMBER = re.compile(r"\d[\d.,]*")


def warnings_of(record: RunRecord) -> list[tuple[str, str]]:
    """(ALERT or NOTICE, text), those of the data and the whole run first."""
    whole = [(ALERT, text) for text in (*_of_run(record), *_of_data(record.prepared))]
    return [*whole, *_alerts(record), *_notices(record)]


def _of_run(record: RunRecord) -> Iterator[str]:
    steps = record.history.steps
    if "skipped_steps" in steps and (skipped := int(np.nansum(steps["skipped_steps"]))):
        yield f"{counted(skipped, 'step')} skipped, because the loss or the gradient was non-finite"
    if "loss" in steps and (missing := int(np.isnan(steps["loss"]).sum())):
        yield f"the loss was non-finite in {counted(missing, 'report')} of {len(steps['loss']):,}"
    starts = record.history.of("start")
    if len(starts) > 1:
        resumed = ", ".join(f"{event.get('step', 0):,}" for event in starts[1:11])
        yield f"{counted(len(starts) - 1, 'restart')}: resumed at step {resumed}{', …' if len(starts) > 11 else ''}"
    if lost := sum(event.get("num_steps") or 0 for event in record.history.of("lost")):
        yield f"{counted(lost, 'step')} had to be done again after a failure or a rollback"
    if record.history.num_unreadable:
        yield f"{counted(record.history.num_unreadable, 'line')} of metrics.jsonl could not be read"


def _of_data(prepared: Mapping[str, Any]) -> Iterator[str]:
    for leak in prepared.get("leaks") or []:
        if isinstance(leak, dict) and leak.get("rows"):
            yield (
                f"leak: {counted(leak['rows'], 'row')} of {leak.get('of')} with the same input as a row of "
                f"{leak.get('inside')}; the scores on {leak.get('of')} are too good by what the model has memorized"
            )
    for leak in (prepared.get("near_duplicates") or {}).get("leaks") or []:
        yield (
            f"near duplicates: {counted(leak.get('rows', 0), 'row')} of {leak.get('of')} nearly the same as a row of "
            f"{leak.get('inside')}, besides those with the same input"
        )
    for name, split in (prepared.get("splits") or {}).items():
        if dropped := split.get("rows_dropped"):
            yield f"{name}: {counted(dropped, 'row')} dropped, because no target was left in them"
    skipped = (prepared.get("bad_rows") or {}).get("rows") or {}
    for name, number in skipped.items():
        if number:
            yield f"{name}: {counted(number, 'row')} skipped as malformed (data.on_bad_row)"


def _alerts(record: RunRecord) -> Iterator[tuple[str, str]]:
    """One entry for each kind of alert, which is its title without the numbers: the first one in full, and how often
    it came."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for event in record.history.of("alert"):
        kinds.setdefault(_NUMBER.sub("#", str(event.get("title", ""))), []).append(event)
    for alerts in list(kinds.values())[:MOST_KINDS]:
        text = f"{alerts[0].get('title', '')}: {alerts[0].get('text', '')}"
        if len(alerts) > 1:
            text += f" (and {len(alerts) - 1:,} more like it{_last_step(alerts)})"
        yield ALERT, text
    if len(kinds) > MOST_KINDS:
        yield ALERT, f"and {len(kinds) - MOST_KINDS:,} more kinds of alerts, in metrics.jsonl"


def _last_step(alerts: list[Mapping[str, Any]]) -> str:
    step = alerts[-1].get("step")
    return f", the last at step {step:,}" if isinstance(step, int) else ""


def _notices(record: RunRecord) -> Iterator[tuple[str, str]]:
    texts = list(dict.fromkeys(str(event.get("text", "")) for event in record.history.of("notice")))
    notes = [str(note) for note in record.prepared.get("notes") or [] if not str(note).startswith(LEAKS)]
    for text in list(dict.fromkeys([*texts, *notes]))[:MOST_KINDS]:
        yield NOTICE, text
