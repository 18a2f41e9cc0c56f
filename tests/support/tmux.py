"""A terminal of a given size for tests, in tmux. Where tmux is missing its tests are skipped, which on CI is a
failure."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TMUX = shutil.which("tmux")
WITHIN_S = 90.0


class Terminal:
    """A command in a terminal."""

    def __init__(self, folder: str) -> None:
        # Readline, in this process, and pytest-xdist fix the size of terminals in the environment.
        sizes = ("LINES", "COLUMNS")
        self._environment = {key: value for key, value in os.environ.items() if key not in sizes}
        self._environment["TMUX_TMPDIR"] = folder

    def press(self, *keys: str) -> None:
        """Presses keys, by the names that tmux gives them."""
        self.tmux("send-keys", *keys)

    def screen(self, *, with_styles: bool = False) -> str:
        """What the terminal shows."""
        return self.tmux("capture-pane", "-p", *(["-e"] if with_styles else []))

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
        command = [TMUX, "-u", "-f", "/dev/null", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=self._environment)
        return done.stdout


@contextmanager
def terminal(command: str, folder: Path, size: tuple[int, int], **environment: str) -> Iterator[Terminal]:
    """Runs a shell command in a terminal of that many columns and lines; prints its exit code when it ends."""
    if TMUX is None:
        if "CI" in os.environ:
            pytest.fail("tmux is missing (tests/support/install_packages.sh)")
        pytest.skip("tmux is missing")
    settings = [word for key, value in environment.items() for word in ("-e", f"{key}={value}")]
    width, height = map(str, size)
    shell = f"{command}; echo exit code $?; sleep 1000"
    with tempfile.TemporaryDirectory() as sockets:  # pytest's folders have longer paths than a socket may have
        opened = Terminal(sockets)
        try:
            opened.tmux("new-session", "-d", "-x", width, "-y", height, "-c", str(folder), *settings, shell)
            yield opened
        finally:
            opened.tmux("kill-server")
