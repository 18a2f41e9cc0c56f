"""`shardtune plan --auto`, `--table` and `--page` print advice that one can paste, or say what is wrong."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shardtune.launcher import cli

pytestmark = pytest.mark.usefixtures("folder")


def _out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli._carry_out(["plan", "recipe.yaml", *words]) == 0
    return capsys.readouterr().out


def _json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(_out(capsys, *words, "--json"))


def test_the_overrides_give_the_forecast_that_was_advised(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gpu=h100", "--nodes=2", "--price-per-gpu-hour=3"]
    advice = _json(capsys, *words, "--auto")
    pasted = _json(capsys, *words, *advice["overrides"])
    assert pasted.pop("failures")
    assert pasted == advice["best"]["forecast"]
    assert pasted["memory"]["verdict"] == "fits"
    assert pasted["step"]["seconds"] <= _json(capsys, *words)["step"]["seconds"]


def test_all_parts_of_the_advice_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    text = _out(capsys, "--gpu=a100-80g", "--auto")
    for part in (
        "advice         the fastest of ",
        "engine.deepspeed=",
        "LoRA           model.lora={} would train ",
        "a node is taken to have 1,024 GiB of memory",
        "What fits, the fastest of each strategy:",
        "What does not fit, and what it needs at least:",
        "The smallest machine that can: ",
        "More nodes help up to ",
    ):
        assert part in text
    assert "LoRA           model.lora" not in _out(capsys, "--gpu=a100-80g", "--auto", "model.lora={}")
    assert "a node has 64 GiB" in _out(capsys, "--gpu=a100-80g", "--auto", "job.memory_per_node_gb=64")


def test_where_nothing_fits_the_nearest_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gpu=t4", "--gpus-per-node=1", "--params=70B", "--layers=80", "--auto"]
    text = _out(capsys, *words)
    assert "nothing fits: of " in text
    assert "the nearest needs " in text
    tight = _out(capsys, "--gpu=l4", "--auto", "data.max_tokens=2048")
    assert re.search(r"zero3_offload, 2,048 tokens +[\d.]+ of 22.5 GiB per GPU \(tight\)", tight)
    advice = _json(capsys, *words)
    assert advice["best"] is None
    assert advice["overrides"] is None
    assert not advice["nearest"]["fits"]


def test_a_table_has_a_line_for_each_machine(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--table", "--gpus=a100-80g,h100", "--nodes=1,2,4"]
    lines = _out(capsys, *words).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        f"{nodes} x 8 x {gpu}" for gpu in ("a100-sxm-80g", "h100-sxm-80g") for nodes in (1, 2, 4)
    ]
    assert {cell["engine.deepspeed"] for cell in _json(capsys, *words)} == {"zero3"}
    best = _json(capsys, *words, "--auto")
    assert all(cell["verdict"] == "fits" for cell in best)
    own = _json(capsys, *words)
    for ours, cell in zip(own, best, strict=True):
        assert ours["verdict"] != "fits" or cell["step_seconds"] <= ours["step_seconds"]


def test_the_recipe_may_come_after_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._carry_out(["plan", "--table", "recipe.yaml", "--gpus=h100"]) == 0
    assert "1 x 8 x h100-sxm-80g" in capsys.readouterr().out


def test_auto_in_a_recipe_is_planned_as_a_run_would_choose(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gpu=h100", "engine.deepspeed=auto", "train.micro_batch_tokens=4096"]
    found = _json(capsys, *words)
    named = re.match(r"engine\.deepspeed: auto is (\w+): ", found["strategy"])
    assert named
    assert _json(capsys, *words, f"engine.deepspeed={named[1]}")["memory"] == found["memory"]
    assert f"strategy       {found['strategy']}" in _out(capsys, *words)
    assert f"{named[1]}, 4,096 tokens" in _out(capsys, *words, "--table")


def test_a_page_needs_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _out(capsys, "--gpu=a100-80g", "--auto", "--page=plan.html")
    page = (folder / "plan.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="', page)
    assert page.count("<svg") == 3
    assert re.search(r"engine\.deepspeed=\w+ train\S+ model\S+", text)[0] in page  # type: ignore[index]
    bars = [float(size) for size in re.findall(r">[^<]*tokens[^<]*: ([\d.]+) GiB</text>", page)]
    assert f"{bars[0]} of 80 GiB per GPU" in text
    parts = re.findall(r"<title>([\w ]+): ([\d.]+) GiB</title>", page)
    assert ("NCCL buffers", "0.47") in parts


def test_a_page_is_written_where_nothing_fits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _out(capsys, "--gpu=t4", "--params=70B", "--layers=80", "--auto", "--page=plan.html")
    page = (folder / "plan.html").read_text(encoding="utf-8")
    assert "Nothing fits" in page
    assert page.count("<svg") >= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu=h101", "--auto"], "--gpu: unknown GPU 'h101'; did you mean 'h100'?"),
        (["--table", "--gpus=a100-80g,h101"], "--gpus: unknown GPU 'h101'; did you mean 'h100'?"),
        (["--table", "--gpus=a100-80g,"], "--gpus takes words with commas between them, as in --gpus=a100-80g,h100"),
        (["--table", "--gpu=h100", "--nodes=1,0"], "--nodes takes a number above 0, got '0'"),
        (["--table", "--gpu=h100", "--nodes=1,x"], "--nodes takes a number above 0, got 'x'"),
        (["--auto", "--gpu=h100", "--nodes=0"], "--nodes takes a number above 0, got '0'"),
        (["--auto", "--gpu=h100", "--nodes=1,2"], "--nodes takes a number above 0, got '1,2'; with --table several"),
        (["--gpus=h100"], "--gpus takes several kinds of GPUs for --table; for one machine write --gpu="),
        (["--gpu=h100", "--page=plan.html"], "--page shows what --auto finds"),
        (["--auto=3", "--gpu=h100"], "--auto takes no value"),
        (["--auto"], "this machine has no GPU; --gpu=h100-sxm-80g"),
        (["--auto", "--gpu=v100", "engine.precision=bf16"], "v100-sxm2-32g has no tensor cores for bf16"),
        (["--auto", "--gpu=h100", "--params=7B"], "need --params and --layers"),
    ],
)
def test_wrong_input_is_one_line(words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._carry_out(["plan", "recipe.yaml", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert message in line
