"""What the dashboard's page asks for, as JSON over HTTP."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from shardtune.launcher.dashboard.details import details
from shardtune.launcher.dashboard.log_tail import log_tail
from shardtune.launcher.dashboard.read.axes import Series, Window
from shardtune.launcher.dashboard.read.downsample import Numbers
from shardtune.launcher.dashboard.read.metrics_file import OverError
from shardtune.launcher.dashboard.read.run import Run
from shardtune.launcher.dashboard.read.series import SeriesStore
from shardtune.launcher.dashboard.table import last_values, plain, table
from shardtune.launcher.dashboard.watch import Watch

STATIC = Path(__file__).parent / "static"
AXES = ("step", "tokens", "time", "epoch")
MOST_POINTS, MOST_LINES, MOST_RUNS, MOST_METRICS = 20_000, 5_000, 200, 100
MOST_READ = 128 * 2**20
"""Bytes of files that are read for one request, less than a second's work; beyond it, runs are shown by overviews."""
TICK_S, STREAM_S, BEAT_S = 0.1, 0.5, 15.0
"""Between two looks for changes or the end of the server, at least between two messages, and between two signs of life
of a stream without changes."""


class Api:
    """The answers to requests about the runs that are followed."""

    def __init__(self, watch: Watch, is_over: Callable[[], bool]) -> None:
        """`is_over` tells whether the server is to end, and its streams with it."""
        self._watch, self._is_over = watch, is_over
        self._store = SeriesStore(is_over)
        self._table = 0, b""

    def runs(self, request: Request) -> Response:
        """The table."""
        version, body = self._table
        if version != (now := self._watch.version) or not version:
            body = _body(table(self._watch))
            self._table = now, body  # of this version, or already of a later one
        return Response(body, media_type="application/json")

    def series(self, request: Request) -> Response:
        """Curves of several runs."""
        query = request.query_params
        runs = [self._run(name) for name in dict.fromkeys(query.getlist("run"))]
        metrics = list(dict.fromkeys(query.getlist("metric")))
        if not runs or not metrics:
            raise HTTPException(400, "give run=ID and metric=NAME, each at least once")
        if len(runs) > MOST_RUNS or len(metrics) > MOST_METRICS:
            raise HTTPException(400, f"at most {MOST_RUNS} runs and {MOST_METRICS} metrics at once")
        window = _window(query)

        found, pending, room = [], [], float("inf")
        for run in runs:
            try:
                curves, is_coarse, num_read = self._curves(run, metrics, window, room)
            except (OSError, OverError):  # vanished just now, or not begun
                continue
            room = (MOST_READ if room == float("inf") else room) - num_read
            if curves is None:
                pending.append(run.id)
                self._watch.hurry(run)
            for metric, curve in (curves or {}).items():
                points = {"x": _list(curve.x), "y": _list(curve.y), "count": curve.count}
                found.append({"run": run.id, "metric": metric, **points, "coarse": is_coarse})
        return _json({"series": found, "pending": pending})

    def _curves(
        self, run: Run, metrics: Sequence[str], window: Window, room: float
    ) -> tuple[dict[str, Series] | None, bool, int]:
        """The curves of a run, whether they are those of its overview, and the bytes that were read for them.

        At most `room` bytes are read. None if that is too little and there is no overview yet. Raises OSError,
        OverError.
        """
        with run.lock:
            known, began = last_values(run.digest), run.digest.first_time or 0.0
            is_whole, overview = run.digest.is_whole, run.overview
            unread = self._store.unread(run.path, metrics, window, began)
            if unread > room:
                drawn = {metric: overview.series(metric, window, began) for metric in metrics}
                found = {metric: curve for metric, curve in drawn.items() if curve is not None}
                return (found if is_whole else None), True, 0
        return self._store.series(run.path, metrics, known, window, began), False, unread

    def run(self, request: Request) -> Response:
        """Everything about one run."""
        return _json(details(self._run(request.path_params["run"])))

    def log(self, request: Request) -> Response:
        """The end of the log of one run."""
        lines = _number(request.query_params, "lines", 200)
        if not 1 <= lines <= MOST_LINES:
            raise HTTPException(400, f"lines is a number from 1 to {MOST_LINES}")
        return _json(log_tail(self._run(request.path_params["run"]).path, int(lines)))

    async def stream(self, request: Request) -> Response:
        """Server-sent events about what has changed."""
        return StreamingResponse(self._changes(), media_type="text/event-stream")

    async def _changes(self) -> AsyncIterator[str]:
        version, silent_s, told_s = self._watch.version, 0.0, 0.0
        yield _sent({"version": version, "changed": [], "added": [], "gone": []})
        while not self._is_over():
            await asyncio.sleep(TICK_S)
            silent_s, told_s = silent_s + TICK_S, told_s + TICK_S
            if self._watch.version != version and told_s >= STREAM_S:
                change = self._watch.since(version)
                version, silent_s, told_s = change.version, 0.0, 0.0
                lists = {name: sorted(getattr(change, name)) for name in ("changed", "added", "gone")}
                yield _sent({"version": version, **lists})
            elif silent_s >= BEAT_S:
                silent_s = 0.0
                yield ": nothing new\n\n"

    def _run(self, name: str) -> Run:
        run = self._watch.run(name)
        if run is None:
            raise HTTPException(404, "there is no such run (any more)")
        return run


def make_app(watch: Watch, is_over: Callable[[], bool]) -> Starlette:
    """The application, without the guard (security.py)."""
    api = Api(watch, is_over)
    app = Starlette(
        routes=[
            Route("/", lambda request: FileResponse(STATIC / "index.html")),
            Route("/api/runs", api.runs),
            Route("/api/series", api.series),
            Route("/api/runs/{run}", api.run),
            Route("/api/runs/{run}/log", api.log),
            Route("/api/stream", api.stream),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={HTTPException: _refuse, Exception: _fail},  # type: ignore[dict-item]
    )
    app.router.redirect_slashes = False
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=1)  # for tunnels
    return app


def _refuse(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _fail(request: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return JSONResponse({"error": "this is a bug of shardtune; its terminal has the traceback"}, 500)


def _json(value: Mapping[str, Any]) -> Response:
    return Response(_body(value), media_type="application/json")


def _body(value: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(value), allow_nan=False).encode()


def _sent(value: Mapping[str, Any]) -> str:
    return f"event: runs\ndata: {json.dumps(value)}\n\n"


def _window(query: Mapping[str, str]) -> Window:
    """Raises HTTPException for what is no window."""
    axis = query.get("x", "step")
    if axis not in AXES:
        raise HTTPException(400, f"x is one of {', '.join(AXES)}")
    points = _number(query, "points", 1200)
    if not 2 <= points <= MOST_POINTS:
        raise HTTPException(400, f"points is a number from 2 to {MOST_POINTS}")
    begin, end = (_number(query, name, None) for name in ("from", "to"))
    return Window(axis, begin, end, int(points))  # type: ignore[arg-type]


def _number(query: Mapping[str, str], name: str, default: Any) -> Any:
    text = query.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise HTTPException(400, f"{name} is a number")
    return number


def _list(numbers: Numbers) -> list[float | None]:
    """The numbers with null for nan."""
    values: list[float | None] = numbers.tolist()
    for place in np.flatnonzero(np.isnan(numbers)):
        values[place] = None
    return values
