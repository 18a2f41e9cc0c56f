"""A stop request takes effect wherever it comes from and wherever a run is, and loses nothing."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shardtune.run_dir.exit_codes import EXIT_RESUME
from shardtune.run_dir.files import LEASE, RESULTS, STOP, alive_path, failure_path
from shardtune.run_dir.stop_file import ask_to_stop
from shardtune.trainer.checkpoint.manifest import complete_checkpoints
from shardtune.trainer.data.prepare.prepare import _machine_lock, fingerprint
from shardtune.trainer.distributed.stop import SIGNALS, StopAsked, signals_ask_to_stop
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from tests.support.runs import RECIPE, curve, events, tiny_recipe, train

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_ends_the_process_where_it_stands_until_it_is_only_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals_ask_to_stop() as stop, pytest.raises(StopAsked, match=number.name):
        os.kill(os.getpid(), number)
        time.sleep(5)
    with signals_ask_to_stop() as stop:
        stop.note_only()
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert (stop.requested, stop.reason) == (True, number.name)
    assert signal.getsignal(number) is before


def test_a_wish_that_comes_while_modules_are_imported_is_heeded_when_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with signals_ask_to_stop() as stop, pytest.raises(StopAsked, match="SIGTERM"), stop.postponed():
        os.kill(os.getpid(), signal.SIGTERM)
        print("imported")
    assert capsys.readouterr().out == "imported\n"


def test_a_rank_that_waits_for_another_within_torch_ends_when_it_is_asked_to(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.format(folder=tiny), encoding="utf-8")
    # Nobody joins its store: rank 1 never comes.
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    words = [sys.executable, "-m", "shardtune.trainer", "r.yaml", "--run-dir=r"]
    process = subprocess.Popen(words, cwd=tmp_path, env=os.environ | place | {"PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 100
        while not alive_path(tmp_path / "r", "0-joining").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        time.sleep(1)
        process.terminate()
        assert process.wait(30) == EXIT_RESUME
    finally:
        process.kill()
        process.wait()
    failure = json.loads(failure_path(tmp_path / "r", 0).read_text())
    assert (failure["rank"], failure["code"]) == (0, EXIT_RESUME) and failure["text"].startswith("stopped by SIGTERM")


def test_a_signal_to_a_forked_process_is_not_taken_for_one_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtune.trainer.distributed.stop.GRACE_S", 0.1)
    heard: list[StopAsked] = []
    with signals_ask_to_stop(when_stuck=heard.append):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(StopAsked):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        time.sleep(0.5)
        assert not heard
        signal.signal(signal.SIGTERM, lambda *_: None)  # as if the main thread had no time for its handler
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 20
        while not heard:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert [str(request) for request in heard] == ["SIGTERM"]


def test_nobody_listens_for_signals_afterwards_even_if_a_forked_process_lives_on() -> None:
    with signals_ask_to_stop(when_stuck=print):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(100)
            os._exit(0)
    try:
        assert "stuck" not in [thread.name for thread in threading.enumerate()]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_file_and_the_clock_ask_like_a_signal(tmp_path: Path) -> None:
    (tmp_path / STOP).touch()
    with signals_ask_to_stop() as stop, pytest.raises(StopAsked, match="a stop file"):
        stop.watch(tmp_path / STOP, None)
        time.sleep(10)
    with signals_ask_to_stop() as stop, pytest.raises(StopAsked, match="stop_after_minutes"):
        stop.watch(tmp_path / "other", 0.01)
        time.sleep(10)


def test_a_stop_file_says_who_asked_and_means_no_other_start_than_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardtune.trainer.distributed.stop.POLL_S", 0.01)
    ask_to_stop(tmp_path, "SIGTERM", start="earlier")
    ask_to_stop(tmp_path, "Ctrl-C", start="mine")
    ask_to_stop(tmp_path, "SIGTERM", start="mine")  # the first one is kept
    with signals_ask_to_stop() as stop:
        stop.watch(tmp_path / STOP, None, start="another")
        time.sleep(0.3)
        assert not stop.requested
    with signals_ask_to_stop() as stop, pytest.raises(StopAsked, match="Ctrl-C"):
        stop.watch(tmp_path / STOP, None, start="mine")
        time.sleep(10)


def signal_at(method: str, call: int, rank: int = 1) -> Callable[[], None]:
    """Sends one rank SIGTERM at this call of a method of its engine, counted from 1."""

    def before() -> None:
        done = getattr(DeepSpeedEngine, method)
        calls = iter(range(1, 10**6))

        def counted(self, *args, **words):  # type: ignore[no-untyped-def]
            if next(calls) == call and self._ranks.rank == rank:
                os.kill(os.getpid(), signal.SIGTERM)
            return done(self, *args, **words)

        setattr(DeepSpeedEngine, method, counted)

    return before


@pytest.fixture(scope="module")
def unbroken(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("unbroken")
    train(tiny_recipe(tiny, *SHORT), run_dir, world_size=2)
    return run_dir


SHORT = ("train.max_steps=8", "train.micro_batch_tokens=64")
"""Of several micro-batches a step and a rank; dev is evaluated after steps 6 and 8."""


def same_end(first: Path, other: Path) -> bool:
    weights, other_weights = (
        load_file(run_dir / "export" / "best" / "model.safetensors") for run_dir in (first, other)
    )
    same_weights = all(torch.equal(weights[name], other_weights[name]) for name in other_weights)
    return same_weights and json.loads((first / RESULTS).read_text()) == json.loads((other / RESULTS).read_text())


def test_a_step_of_many_micro_batches_is_left_in_the_middle(tiny: Path, tmp_path: Path, unbroken: Path) -> None:
    recipe = tiny_recipe(tiny, *SHORT)
    assert train(recipe, tmp_path, world_size=2, before=signal_at("begin_step", 4))[0] == [False, False]
    (stopped,) = events(tmp_path, "stopped")
    assert (stopped["step"], stopped["reason"]) == (3, "SIGTERM")
    assert [checkpoint.step for checkpoint in complete_checkpoints(tmp_path / "checkpoints")] == [3]
    assert not (tmp_path / LEASE).exists()
    assert train(recipe, tmp_path, world_size=2)[0] == [True, True]
    assert curve(events(tmp_path)) == curve(events(unbroken))
    assert same_end(tmp_path, unbroken)


AT_START = 8
"""Passes by which a model is asked at the start: six of its masks, one of its loss, one of its first token."""


def test_an_evaluation_is_left_in_the_middle_and_done_again(tiny: Path, tmp_path: Path, unbroken: Path) -> None:
    recipe = tiny_recipe(tiny, *SHORT)
    evaluating = signal_at("evaluating", AT_START + 1)  # that after step 6
    assert train(recipe, tmp_path, world_size=2, before=evaluating)[0] == [False, False]
    assert not events(tmp_path, "eval")
    assert [checkpoint.step for checkpoint in complete_checkpoints(tmp_path / "checkpoints")] == [6]
    at_the_end = signal_at("evaluating", AT_START + 3)  # after 6 again, after 8, and then test
    assert train(recipe, tmp_path, world_size=2, before=at_the_end)[0] == [False, False]
    assert not (tmp_path / RESULTS).exists()
    assert train(recipe, tmp_path, world_size=2)[0] == [True, True]
    assert curve(events(tmp_path)) == curve(events(unbroken))
    assert same_end(tmp_path, unbroken)


def test_the_clock_stops_a_training_on_all_ranks(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "train.num_epochs=5000", "data.dev=null", "faults.stop_after_minutes=0.05")
    ended, its_events = train(recipe, tmp_path, world_size=2)
    assert ended == [False, False]
    (stopped,) = (event for event in its_events if event["event"] == "stopped")
    assert stopped["reason"] == "faults.stop_after_minutes"


def test_a_preparation_ends_at_once_with_the_code_that_asks_for_another_start(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.format(folder=tiny), encoding="utf-8")
    (tmp_path / "cache").mkdir()
    settings = [f"data.cache_dir={tmp_path}/cache"]
    words = [sys.executable, "-m", "shardtune.trainer", "r.yaml", *settings, "--run-dir=r", "--prepare=1"]
    folder = tmp_path / "cache" / fingerprint(tiny_recipe(tiny, *settings))
    with _machine_lock(folder, "", print):  # as if another process were preparing the same data, for ever
        process = subprocess.Popen(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
        deadline = time.monotonic() + 100
        while not (tmp_path / "r" / "config.yaml").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        (tmp_path / "r" / STOP).touch()
        assert process.wait(60) == EXIT_RESUME
