"""`shardtune plan` foresees memory, time and cost from a recipe and a config.json, or says why it cannot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shardtune.launcher import cli


def _planned(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli._carry_out(["plan", "recipe.yaml", "--gpu=h100-sxm-80g", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("folder")
def test_a_forecast_has_memory_time_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    found = _planned(capsys, "--price-per-gpu-hour=2", "model.activation_checkpointing=true")
    assert found["model"]["parameters"] == 8_030_261_248
    assert found["memory"]["verdict"] == "fits"
    assert found["memory"]["used_bytes"] == pytest.approx(sum(found["memory"]["terms"].values()), rel=1e-6)
    assert found["steps"] == 10
    assert found["data_is_estimated"]
    assert found["run_parts_s"]["steps"] == pytest.approx(10 * found["step"]["seconds"])
    assert found["run_seconds"] == pytest.approx(sum(found["run_parts_s"].values()))
    assert found["gpu_hours"] == pytest.approx(8 * found["run_seconds"] / 3600)
    assert found["cost"] == pytest.approx(2 * found["gpu_hours"])
    assert 5_000 < found["tokens_per_s_per_gpu"] < 12_000
    assert 0.2 < found["mfu"] < 0.6


@pytest.mark.usefixtures("folder")
def test_the_text_says_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._carry_out(["plan", "recipe.yaml", "--gpu=rtx-4090", "--nodes=2"]) == 0
    text = capsys.readouterr().out
    assert "memory         does not fit: " in text
    assert "machine        2 nodes x 8 x rtx-4090, 24 GiB each" in text
    assert "10 steps: " in text


def test_an_earlier_start_has_counted_the_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run").mkdir()
    start = {"event": "start", "time": 1.0, "data": {"train": {"rows": 1280, "tokens": 128_000}}}
    (folder / "run/metrics.jsonl").write_text(f"{json.dumps(start)}\n", encoding="utf-8")
    found = _planned(capsys, "--run-dir=run")
    assert found["steps"] == 20
    assert found["step"]["tokens"] == 6_400
    assert not found["data_is_estimated"]


def test_of_many_files_a_sample_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "parts").mkdir()
    for number in range(100):
        (folder / f"parts/{number:03}.txt").write_text(f"{'word ' * 400}\n" * 64, encoding="utf-8")
    assert _planned(capsys, "data.train=parts")["steps"] == 100


def test_dev_is_estimated_as_train_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "dev.txt").write_text(f"{'word ' * 400}\n" * 320, encoding="utf-8")
    whole, half = (_planned(capsys, f"data.dev={dev}")["run_parts_s"] for dev in ("train.txt", "dev.txt"))
    assert whole["evaluations"] == pytest.approx(2 * half["evaluations"], rel=0.01)
    share = _planned(capsys, "data.dev={fraction: 0.5}")["run_parts_s"]
    assert share["evaluations"] == pytest.approx(half["evaluations"], rel=0.01)


@pytest.mark.usefixtures("folder")
def test_rows_and_tokens_that_are_given_count(capsys: pytest.CaptureFixture[str]) -> None:
    found = _planned(capsys, "--rows=6400", "--tokens=6.4M")
    assert found["steps"] == 100
    assert found["step"]["tokens"] == 64_000
    assert not found["data_is_estimated"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "override", ["model.lora={}", "engine.deepspeed=zero3_offload", "train.micro_batch_tokens=2048"]
)
def test_what_saves_memory_is_seen(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _planned(capsys, override)["memory"]["used_bytes"] < _planned(capsys)["memory"]["used_bytes"]


@pytest.mark.usefixtures("folder")
def test_an_automatic_micro_batch_fills_the_memory_and_not_more(capsys: pytest.CaptureFixture[str]) -> None:
    found = _planned(capsys, "train.micro_batch_tokens=auto", "train.global_batch_size=4096")
    assert found["memory"]["verdict"] == "fits"
    assert found["memory"]["used_bytes"] > 0.4 * found["memory"]["capacity_bytes"]


@pytest.mark.usefixtures("folder")
def test_sizes_stand_in_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = _planned(capsys, "--params=70B", "--layers=80", "--nodes=8")
    assert found["model"]["parameters"] == pytest.approx(70e9, rel=1e-4)
    assert found["machine"] == {"gpu": "h100-sxm-80g", "nodes": 8, "gpus_per_node": 8}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu=h101"], "--gpu: unknown GPU 'h101'; did you mean 'h100'?"),
        (["--gpu=h100", "--nodes=0"], "--nodes takes a number above 0, got '0'"),
        (["--gpu=h100", "--gpus-per-node=0"], "--gpus-per-node takes a number above 0, got '0'"),
        (["--gpu=h100", "--params=7B"], "need --params and --layers"),
        (["--gpu=h100", "--params=seven", "--layers=32"], "--params takes a number above 0, such as 7B"),
        (["--gpu=h100", "--params=7B", "--layers=32", "--heads=30"], "--heads=30 does not divide"),
        (["--gpu=h100", "--layers=x"], "--layers takes a number, got 'x'"),
        (["--gpu=h100", "--node-mtbf-hours=never"], "--node-mtbf-hours takes a number above 0"),
        (["--gpu=h100", "--network=fast"], "--network takes a number above 0"),
        (["--gpu=h100", "--hardware=none.yaml"], "none.yaml: cannot be read as a table of GPUs"),
        (["--gpu=v100", "engine.precision=bf16"], "engine.precision: v100-sxm2-32g has no tensor cores for bf16"),
        (["--gpu=h100", "optim.lrr=1"], "unknown key; did you mean 'lr'"),
        (["--json"], "this machine has no GPU; --gpu=h100-sxm-80g"),
    ],
)
def test_wrong_input_is_one_line(words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._carry_out(["plan", "recipe.yaml", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert message in line


def test_an_unknown_architecture_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model/config.json").write_text('{"model_type": "mamba"}', encoding="utf-8")
    assert cli._carry_out(["plan", "recipe.yaml", "--gpu=h100"]) == 2
    assert "the planner does not know the architecture 'mamba'" in capsys.readouterr().err


def test_a_classifier_and_a_translation_are_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    bert = {"model_type": "bert", **sizes, "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}
    (folder / "model/config.json").write_text(json.dumps(bert), encoding="utf-8")
    words = ["task.kind=classification", "data.max_tokens=256", "--rows=10K", "--tokens=1M"]
    found = _planned(capsys, *words)
    assert found["model"]["parameters"] == pytest.approx(109.5e6, rel=0.01)
    assert found["memory"]["verdict"] == "fits"


def test_the_longest_time_that_is_shown_is_in_days(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gpu=a10", "--gpus-per-node=1", "--params=70B", "--layers=80", "train.max_steps=9000"]
    assert cli._carry_out(["plan", "recipe.yaml", *words]) == 0
    assert " days (" in capsys.readouterr().out
    assert folder


def test_what_was_predicted_of_a_run_stands_beside_what_became_of_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._carry_out(["plan", "recipe.yaml", "--gpu=h100"]) == 0
    assert "predicted" not in capsys.readouterr().out
    (folder / "run").mkdir()
    step = {"event": "step", "time": 2.0, "step": 1, "memory_bytes": 25e9, "step_time_s": 2.5, "tokens_per_s": 800.0}
    (folder / "run/metrics.jsonl").write_text(f"{json.dumps(step)}\n", encoding="utf-8")
    (folder / "run/plan.json").write_text('{"memory_bytes": 2e10, "step_s": 2.0}', encoding="utf-8")
    assert cli._carry_out(["plan", "recipe.yaml", "--gpu=h100", "--run-dir=run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["peak", "memory", "of", "a", "rank", "20.00", "GB", "25.00", "GB", "-20%"]
    found = _planned(capsys, "--run-dir=run")["predicted_and_real"]
    assert found["time of a step"] == {"predicted": 2.0, "real": 2.5}


@pytest.mark.usefixtures("folder")
def test_failures_are_those_of_published_clusters_or_of_the_rate_given(capsys: pytest.CaptureFixture[str]) -> None:
    often, seldom = _planned(capsys, "--nodes=2", "train.max_steps=5000")["failures"]
    assert often["failures"] > seldom["failures"] > 0
    (given,) = _planned(capsys, "train.max_steps=5000", "--node-mtbf-hours=20", "--queue-hours=1", "--simulate")[
        "failures"
    ]
    assert given["node_mtbf_s"] == 72_000
    assert len(given["simulated_goodput"]) == 20 and 0 < max(given["simulated_goodput"]) < 1
    assert cli._carry_out(["plan", "recipe.yaml", "--gpu=h100", "--node-mtbf-hours=20", "--simulate"]) == 0
    text = capsys.readouterr().out
    assert "failures " in text and "simulated: goodput" in text


def test_failures_of_a_run_of_unknown_length_are_not_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train.txt").rename(folder / "train.jsonl.gz")
    words = ["plan", "recipe.yaml", "--gpu=h100", "data.train=train.jsonl.gz"]
    assert cli._carry_out(words) == 0
    assert "failures" not in capsys.readouterr().out
    assert cli._carry_out([*words, "--simulate"]) == 2
    assert "give --rows and --tokens, or train.max_steps" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_failures_that_hardly_any_run_will_see_are_shown_only_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "recipe.yaml", "--gpu=h100", "train.max_steps=5"]
    assert cli._carry_out(words) == 0
    assert "failures" not in capsys.readouterr().out
    assert cli._carry_out([*words, "--node-mtbf-hours=1000"]) == 0
    assert "failures" in capsys.readouterr().out
