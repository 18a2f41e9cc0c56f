"""A W&B server on loopback: one that keeps what it is sent, or one that fails in a chosen way."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANGS_S = 60.0
MODES = ("good", "hangs", "fails", "refuses", "hangs_later")


@dataclass
class Server:
    """What the server has got."""

    url: str
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Row of the file -> its values, as file_stream numbers the lines."""
    alerts: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    """Saved workspaces, as the variables of the mutation."""
    exit_code: int | None = None


@contextlib.contextmanager
def wandb_server(mode: str) -> Iterator[Server]:
    """A server of one of MODES; `hangs_later` answers whether it is there, and nothing else."""
    if mode == "refuses":
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
            yield Server(f"http://127.0.0.1:{taken.getsockname()[1]}")
        return
    ended = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(mode, ended))
    server.daemon_threads = True
    server.kept = Server(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.kept  # type: ignore[attr-defined]
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


def _handler(mode: str, ended: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if mode == "hangs" or (mode == "hangs_later" and body != b"{}"):
                ended.wait(HANGS_S)
                return
            if mode == "fails":
                self._answer(500, {})
            elif self.path.startswith("/graphql"):
                self._answer(*_graphql(self._kept, body))
            else:
                self._answer(200, _file_stream(self._kept, self.path, body))

        do_GET = do_PUT = do_POST

        @property
        def _kept(self) -> Server:
            kept: Server = self.server.kept  # type: ignore[attr-defined]
            return kept

        def _answer(self, code: int, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _graphql(kept: Server, body: bytes) -> tuple[int, Any]:
    query = json.loads(body)
    text = query.get("query", "")
    name = match.group(2) if (match := re.search(r"(query|mutation)\s+(\w+)", text)) else ""
    kept.queries.append(name)
    project = {"id": "p", "name": "shardtune", "entity": {"id": "e", "name": "us"}}
    if name == "RunResumeStatus":
        return 200, {"data": {"model": {**project, "bucket": _resumed(kept)}}}
    if name == "UpsertBucket":
        bucket = {"id": "b", "name": query["variables"].get("name"), "project": project, "historyLineCount": 0}
        return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": not kept.history}}}
    if name == "NotifyScriptableRunAlert":
        kept.alerts.append(query["variables"]["title"])
        return 200, {"data": {"notifyScriptableRunAlert": {"success": True}}}
    if name.startswith("ServerFeatures"):
        return 200, {"data": {"serverInfo": {"features": []}}}
    if name == "UpsertView2":
        kept.views.append(query["variables"])
        return 200, {
            "data": {"upsertView": {"view": {"id": "w", "name": query["variables"]["name"]}, "inserted": True}}
        }
    if name in ("Viewer", "GetDefaultEntity"):
        return 200, {"data": {"viewer": {"id": "v", "entity": "us", "username": "me", "flags": "{}"}}}
    if name == "CreateRunFiles":
        return 200, {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}}
    return 400, {"errors": [{"message": f"not known here: {name}"}]}


def _resumed(kept: Server) -> dict[str, Any] | None:
    if not kept.history:
        return None
    last = kept.history[max(kept.history)]
    return {
        "name": "run", "historyLineCount": len(kept.history), "eventsLineCount": 0, "logLineCount": 0,
        "historyTail": json.dumps([json.dumps(last)]), "eventsTail": "[]", "summaryMetrics": "{}", "config": "{}",
        "tags": [], "wandbConfig": json.dumps({"t": 1}),
    }  # fmt: skip


def _file_stream(kept: Server, path: str, body: bytes) -> Any:
    if path.endswith("/file_stream"):
        sent = json.loads(body)
        if (lines := (sent.get("files") or {}).get("wandb-history.jsonl")) is not None:
            for number, line in enumerate(lines["content"], lines["offset"]):
                kept.history[number] = json.loads(line)
        if sent.get("complete") is not None:
            kept.exit_code = sent.get("exitcode")
    return {}


def waited_until(is_true: Any, seconds: float = 30.0) -> bool:
    """Whether something became true in time."""
    deadline = time.monotonic() + seconds
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(is_true())
