"""The progress of a run: a bar that fits its terminal, plain lines anywhere else."""

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest

from shardtune.run_dir.view.progress import Progress, event_line
from shardtune.run_dir.view.step_line import JUDGED_STEPS, StragglerWatch, step_numbers

START = {
    "event": "start", "step": 0, "num_steps": 2000, "num_rows": 67, "num_parameters": 1000, "world_size": 2,
    "device": "cpu", "zero_stage": 2, "precision": "bf16",
}  # fmt: skip


def step(number: int, rank: int = 3, lost_share: float = 0.25) -> dict[str, Any]:
    lost = {
        "slowest_rank": rank,
        "slowest_host": "a-node-of-the-cluster-17",
        "slowest_gpu": 1,
        "lost_share": lost_share,
    }
    return {"event": "step", "step": number, "loss": 1.0, "lr": 1e-3, "tokens_per_s": 98765.0, "eta_s": 6000.0, **lost}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def last_bar(events: list[Mapping[str, Any]], columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    progress = Progress(terminal)
    for event in events:
        progress.show(event)
    progress._bars.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    progress.close()
    return re.split(r"[\r\n]+", shown.strip())[-1]


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_the_line_keeps_bar_and_counter_at_any_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    line = last_bar([START, *map(step, range(1, 31))], columns, monkeypatch)
    assert len(line.rstrip()) <= columns
    assert line.count("━") >= 8 and "  30/2000" in line and "loss 1.0000" in line
    if columns >= 80:
        assert "1:40:00 left" in line and "25% lost" in line and "rank 3" in line
    if columns == 140:
        assert "98,765 tokens/s" in line and "lr 1.00e-03" in line


def test_the_part_of_the_peak_is_shown_beside_the_tokens_and_instead_of_them_where_it_is_narrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = [START, *({**step(number, lost_share=0.0), "mfu": 0.412} for number in range(1, 31))]
    wide, narrow = (last_bar(events, columns, monkeypatch) for columns in (120, 80))
    assert "lr 1.00e-03  98,765 tokens/s  41% MFU  1:40:00 left" in wide
    assert "loss 1.0000  41% MFU  1:40:00 left" in narrow and len(narrow.rstrip()) <= 80
    lost = last_bar([START, *({**step(number), "mfu": 0.412} for number in range(1, 31))], 80, monkeypatch)
    assert "loss 1.0000  1:40:00 left  25% lost to rank 3" in lost and len(lost.rstrip()) <= 80


def test_a_small_part_of_the_peak_has_a_digit_more_and_an_unknown_one_is_not_shown() -> None:
    assert "  3.5% MFU  " in step_numbers({**step(1), "mfu": 0.0349})
    assert "  10% MFU  " in step_numbers({**step(1), "mfu": 0.1})
    assert "MFU" not in step_numbers({**step(1), "mfu": None}) + step_numbers(step(1))


def test_no_rank_is_named_before_enough_steps_or_for_less_than_a_tenth() -> None:
    watch = StragglerWatch()
    watch.begin(1000)
    assert [watch.add(step(1000 + number)) for number in range(1, JUDGED_STEPS)] == [None] * (JUDGED_STEPS - 1)
    lost = watch.add(step(1000 + JUDGED_STEPS))
    assert lost is not None and lost.share == pytest.approx(0.25)
    assert step_numbers(step(1), lost).endswith(
        "1:40:00 left  25% lost waiting for rank 3 (a-node-of-the-cluster-17, GPU 1)"
    )
    for by_turns in (step(1, rank=number % 8, lost_share=0.2) for number in range(JUDGED_STEPS)):
        lost = watch.add({**by_turns, "step": 2000})
    assert lost is None, "ranks that are slow by turns are noise"
    assert step_numbers(step(1)).endswith("left")


def test_events_are_lines_of_a_log() -> None:
    assert event_line(step(7)) == "step 7  loss 1.0000  lr 1.00e-03  98,765 tokens/s  1:40:00 left"
    assert event_line({"event": "phase", "name": None}) is event_line({"event": "checkpoint"}) is None
    assert event_line({"event": "stopped", "step": 7, "reason": "SIGTERM"}) == "stopped at step 7: SIGTERM"
    assert event_line({"event": "done", "step": 9}) == "finished"
    assert event_line({"event": "alert", "title": "a", "text": "b"}) == "WARNING: a: b"


def test_a_step_whose_numbers_are_null_is_shown() -> None:
    event = {"event": "step", "step": 3, "loss": None, "lr": None, "tokens_per_s": None, "eta_s": None, "mfu": None}
    assert step_numbers(event) == "loss nan  lr nan  nan tokens/s  ? left"
