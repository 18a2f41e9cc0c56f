"""How fast `shardtune dashboard` opens over many long runs, and how much memory it takes.

`python -m benchmarks.dashboard` writes a folder of runs, as they are after training or in the middle of it, starts the
command as users do, and asks what its page asks for. Opening: from the start of the process until the table has all
runs. The files are in the page cache, as after a training on this machine.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from shardtune.recipe.load import parse_recipe, render_recipe

STEP = (
    '{{"event": "step", "time": {time:.3f}, "step": {step}, "epoch": {epoch}, "loss": {loss}, "lr": {lr}, '
    '"grad_norm": {norm}, "tokens_per_s": {rate}, "samples_per_s": 12.457385676899834, "tflops_per_s": '
    '88.14227940951636, "mfu": 0.3996293537220537, "padding_efficiency": 0.975, "step_time_s": 0.25, "data_wait_s": '
    '3.632400330388919e-05, "eta_s": 32.32999325480196, "skipped_steps": 0, "memory_bytes": 3697364992, "compute_s": '
    '[0.249966, 0.246667], "slowest_rank": 0, "slowest_host": "node1", "slowest_gpu": 0, "lost_share": 0.013968}}\n'
)
RECIPE = Path("recipes/sentiment.yaml")
BEGAN, NUM_BODIES, EVAL_EVERY = 1.79e9, 4, 1000


def step_lines(points: int, seed: int) -> bytes:
    """The lines of a training with an evaluation now and then."""
    draw = random.Random(seed)
    lines = []
    for step in range(1, points + 1):
        values = {
            "epoch": step / points,
            "loss": 4 / (1 + step / 500) + draw.random(),
            "lr": 1e-4 * (1 - step / points),
        }
        more = {"norm": 1 + draw.random(), "rate": 200_000 + 100 * draw.random(), "time": BEGAN + 60 + step / 4}
        lines.append(STEP.format(step=step, **values, **more))
        if step % EVAL_EVERY == 0:
            numbers = {"loss": 1 / (1 + step), "accuracy": 1 - 1 / (1 + step)}
            lines.append(
                json.dumps({"event": "eval", "time": more["time"], "split": "dev", "step": step, **numbers}) + "\n"
            )
    return "".join(lines).encode()


def write_runs(root: Path, runs: int, points: int) -> int:
    """Writes the run directories; returns the bytes of their metrics.jsonl. The first tenth is being trained."""
    bodies = [step_lines(points, seed) for seed in range(min(NUM_BODIES, runs))]
    written = 0
    for number in range(runs):
        run_dir = root / f"run-{number:03}"
        (run_dir / "logs").mkdir(parents=True)
        recipe = parse_recipe(
            RECIPE.read_text(), [f"optim.lr={1 + number % 10}e-5", f"train.seed={number}"], name=RECIPE.name
        )
        (run_dir / "config.yaml").write_text(render_recipe(recipe))
        begin = [
            {"event": "begin", "time": BEGAN, "job": None, "process_began": BEGAN - 5},
            {"event": "start", "time": BEGAN + 60, "step": 0, "num_steps": points, "world_size": 2, "device": "cuda"},
        ]
        end = [{"event": "done", "time": BEGAN + 70 + points / 4, "step": points, "best_step": points}]
        is_running = number < runs // 10
        with (run_dir / "metrics.jsonl").open("wb") as file:
            for part in (begin, bodies[number % len(bodies)], [] if is_running else end):
                lines = part if isinstance(part, bytes) else "".join(f"{json.dumps(e)}\n" for e in part).encode()
                written += file.write(lines)
        if not is_running:
            (run_dir / "results.json").write_text(json.dumps({"step": points, "best_step": points}))
    return written


class Client:
    """Asks a dashboard that runs in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.began = time.monotonic()
        command = [sys.executable, "-m", "shardtune.launcher", "dashboard", str(root)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        match = re.search(r"127\.0\.0\.1:(\d+)/\?token=(\S+)", self.process.stdout.readline())
        assert match is not None
        self.port, self.token = int(match[1]), match[2]

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer to a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        text = urlencode(query, doseq=True)
        connection.request("GET", f"{path}?{text}", headers={"X-Shardtune-Token": self.token})
        answer = connection.getresponse()
        value = json.loads(answer.read())
        assert answer.status == 200, value
        connection.close()
        return value

    def memory_mb(self, name: str) -> float:
        """VmHWM (the peak) or VmRSS of the process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"^{name}:\s+(\d+)", text, flags=re.MULTILINE)[0]) / 1024

    def close(self) -> float:
        """Ends it as Ctrl-C does; returns the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return time.monotonic() - began


@contextmanager
def timed(rows: list[tuple[str, float, float]], name: str, client: Client) -> Iterator[None]:
    """Adds a row: name, seconds, peak memory until then."""
    began = time.monotonic()
    yield
    rows.append((name, time.monotonic() - began, client.memory_mb("VmHWM")))


def measure(root: Path, runs: int) -> list[tuple[str, float, float]]:
    """Rows of (what, seconds, peak memory in MB)."""
    client, rows = Client(root), []
    try:
        table: list[dict[str, Any]] = []
        while sum(run["step"] is not None for run in table) < runs:
            table = client.get("/api/runs")["runs"]
        rows.append((f"opening: the table of {runs} runs", time.monotonic() - client.began, client.memory_mb("VmHWM")))
        ids = [run["id"] for run in table]
        metrics = ["train/loss", "train/lr", "train/grad_norm", "perf/tokens_per_s", "dev/accuracy"]
        with timed(rows, "5 curves of a run", client):
            client.get("/api/series", run=ids[0], metric=metrics)
        with timed(rows, "the same again", client):
            client.get("/api/series", run=ids[0], metric=metrics)
        with timed(rows, "a zoom into them", client):
            client.get("/api/series", run=ids[0], metric=metrics, **{"from": 1000, "to": 2000})
        with timed(rows, "the loss of 10 runs", client):
            client.get("/api/series", run=ids[:10], metric=metrics[0])
        while not all(run["is_whole"] for run in client.get("/api/runs")["runs"]):
            time.sleep(0.5)
        rows.append(
            ("until all files were read, since the start", time.monotonic() - client.began, client.memory_mb("VmHWM"))
        )
        with timed(rows, "the loss of all runs over each other", client):
            client.get("/api/series", run=ids, metric=metrics[0], points=300)
        with timed(rows, "the same again", client):
            client.get("/api/series", run=ids, metric=metrics[0], points=300)
        with timed(rows, "a new line, until the table has it", client):
            with (root / "run-000" / "metrics.jsonl").open("a") as file:
                last = {"time": time.time(), "epoch": 1.0, "loss": 0.5, "lr": 0.0, "norm": 1.0, "rate": 1.0}
                file.write(STEP.format(step=10**7, **last))
            while client.get("/api/runs")["runs"][0]["step"] != 10**7:
                time.sleep(0.05)
    finally:
        ended_s = client.close()
    return [*rows, ("Ctrl-C", ended_s, rows[-1][2])]


def main() -> None:
    """Prints a table of times and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--points", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shardtune-dashboard-") as folder:
        num_bytes = write_runs(Path(folder), arguments.runs, arguments.points)
        print(
            f"{arguments.runs} runs of {arguments.points:,} points, {num_bytes / 1e9:.1f} GB, {os.cpu_count()} cores\n"
        )
        print(f"{'':46}{'seconds':>9}{'peak MB':>9}")
        for name, seconds, memory in measure(Path(folder), arguments.runs):
            print(f"{name:46}{seconds:9.2f}{memory:9.0f}", flush=True)


if __name__ == "__main__":
    main()
