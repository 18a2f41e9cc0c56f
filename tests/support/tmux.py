"""A terminal of a given size for tests, in tmux. Where tmux is missing its tests are skipped, which on CI is a
failure."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TMUX = shutil.which("tmux")
WITHIN_S = 90.0


class Terminal:
    """A command in a terminal."""

    def __init__(self, server: str) -> None:
        self.server = server

    def press(self, *keys: str) -> None:
        """Presses keys, by the names that tmux gives them."""
        self.tmux("send-keys", "-t", "0", *keys)

    def screen(self, *, with_styles: bool = False) -> str:
        """What the terminal shows."""
        return self.tmux("capture-pane", "-p", "-t", "0", *(["-e"] if with_styles else []))

    def shows(self, *texts: str) -> str:
        """What the terminal shows, as soon as all of the texts are there. Fails if that takes too long."""
        until = time.monotonic() + WITHIN_S
        while not all(text in (shown := self.screen()) for text in texts):
            assert time.monotonic() < until, f"{texts} not in:\n{shown}"
            time.sleep(0.1)
        return shown

    def tmux(self, *words: str) -> str:
        """The output of a command of tmux."""
        assert TMUX is not None
        command = [TMUX, "-L", self.server, "-f", "/dev/null", *words]
        # os.environ lacks LINES and COLUMNS, which readline, in this process, has put into the environment beneath it.
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=dict(os.environ))
        return done.stdout


@contextmanager
def terminal(command: str, folder: Path, size: tuple[int, int], **environment: str) -> Iterator[Terminal]:
    """Runs a shell command in a terminal of that many columns and lines; prints its exit code when it ends."""
    if TMUX is None:
        if os.environ.get("CI"):
            pytest.fail("tmux is missing (tests/support/install_packages.sh)")
        pytest.skip("tmux is missing")
    opened = Terminal(f"shardtune-test-{secrets.token_hex(4)}")
    settings = [word for key, value in environment.items() for word in ("-e", f"{key}={value}")]
    width, height = map(str, size)
    shell = f"{command}; echo exit code $?; sleep 1000"
    try:
        opened.tmux("-u", "new-session", "-d", "-x", width, "-y", height, "-c", str(folder), *settings, shell)
        yield opened
    finally:
        opened.tmux("kill-server")
        (Path(f"/tmp/tmux-{os.getuid()}") / opened.server).unlink(missing_ok=True)
