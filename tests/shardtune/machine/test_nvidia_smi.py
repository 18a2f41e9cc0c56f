"""nvidia-smi is asked, and never waited for without end."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from shardtune.machine import nvidia_smi as asking
from shardtune.machine.nvidia_smi import Answer, ask_nvidia_smi
from tests.support.fake_nvidia_smi import install_nvidia_smi

HOST = socket.gethostname().split(".")[0]


def test_what_it_prints_is_returned_with_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvidia_smi(tmp_path, 'echo "asked: $*"; echo well >&2', monkeypatch)
    answer = ask_nvidia_smi("-L", "-i", "3")
    assert answer == Answer(0, "asked: -L -i 3\nwell\n") and answer.fault is None


def test_a_machine_without_it_has_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_nvidia_smi("-L") is None


def test_its_failure_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Unable to determine the device handle for GPU0: 0000:3B:00.0: GPU is lost.\nReboot the system"
    install_nvidia_smi(tmp_path, f"echo '{text}'; exit 15", monkeypatch)
    answer = ask_nvidia_smi("-L")
    assert answer is not None
    assert answer.fault == f"nvidia-smi fails on {HOST} (exit code 15: {' '.join(text.split())})"


def test_one_that_hangs_is_left_although_something_still_holds_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_S", 0.3)
    install_nvidia_smi(tmp_path, f"sleep 60 & echo $! >{tmp_path}/pid; wait", monkeypatch)
    began = time.monotonic()
    answer = ask_nvidia_smi("-L")
    assert time.monotonic() - began < 5
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert answer is not None and answer.exit_code is None
    assert str(answer.fault).startswith(
        f"nvidia-smi does not answer within 0.3 s on {HOST}: the driver or a GPU hangs; dmesg names the GPU"
    )
