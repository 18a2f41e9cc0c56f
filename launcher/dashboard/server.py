"""Serves the dashboard: on this machine's own address only, until Ctrl-C."""

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from shardtune.errors import LaunchError
from shardtune.launcher.dashboard.app import make_app
from shardtune.launcher.dashboard.security import Guard
from shardtune.launcher.dashboard.watch import Watch
from shardtune.users import own_name

ADDRESS = "127.0.0.1"
FIRST_PORT, NUM_PORTS = 8321, 100
"""Without --port the first free one of these is taken."""
PATIENCE_S = 1.2
"""How long the first page waits until all runs were looked at."""


class Dashboard:
    """A server and what it follows. `close` ends both."""

    def __init__(self, root: Path | None, port: int | None) -> None:
        """Raises LaunchError if the port is taken."""
        self.socket = listen(port)
        self.port: int = self.socket.getsockname()[1]
        self.token = secrets.token_urlsafe(24)
        self.watch = Watch(root)
        app = make_app(self.watch, lambda: self.server.should_exit)
        config = uvicorn.Config(
            Guard(app, self.token), log_level="critical", access_log=False, lifespan="off", server_header=False,
            ws="none", timeout_graceful_shutdown=1,
        )  # fmt: skip
        self.server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        return f"http://{ADDRESS}:{self.port}/?token={self.token}"

    def serve(self) -> None:
        """Serves until Ctrl-C."""
        self.watch.start(PATIENCE_S)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                self.server.run(sockets=[self.socket])
        finally:
            self.watch.stop()
            self.socket.close()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serves in a thread, for as long as the context lasts."""
        thread = threading.Thread(target=self.serve, name="dashboard", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.server.should_exit = True
            thread.join()


def listen(port: int | None) -> socket.socket:
    """A socket that listens on this port of the machine's own address, or on the first free one.

    Raises LaunchError if there is none.
    """
    wanted = [port] if port is not None else [*range(FIRST_PORT, FIRST_PORT + NUM_PORTS), 0]
    for number in wanted:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((ADDRESS, number))
            found.listen(128)
        except OSError as error:
            found.close()
            reason = error.strerror
            continue
        return found
    raise LaunchError(f"--port={port}: {reason}; give another port, or none for a free one")


def welcome(dashboard: Dashboard, where: str) -> str:
    """What is printed at the start: the address, and how to reach it from another machine."""
    port = dashboard.port
    return (
        f"dashboard of {where}: {dashboard.url}\n"
        f"from another machine: ssh -N -L {port}:{ADDRESS}:{port} {own_name()}@{socket.gethostname()}\n"
        "then open the same address there; Ctrl-C ends it"
    )
