"""Runs that suffer one fault after another, each at a seeded moment, and still have to end where the unbroken one does.

A round is one start of two forked ranks and what happens to it. Every start goes on from what the one before has left,
until it is left in peace. In the data is a row that gives no number, so that every run has its bad steps too.
"""

import json
import multiprocessing as mp
import os
import random
import resource
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

import shardtune.trainer.checkpoint.checkpoints
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.fault_policy import FaultsConfig
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_OK, EXIT_RESUME
from shardtune.run_dir.files import RESULTS, STOP
from shardtune.trainer.checkpoint.manifest import Checkpoint, complete_checkpoints
from shardtune.trainer.data.prepare.prepare import Prepared, prepare
from shardtune.trainer.distributed.ranks import connect
from shardtune.trainer.distributed.stop import StopAsked, signals_ask_to_stop
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.run import run
from tests.support.runs import curve, events, tiny_recipe, write_tiny
from tests.support.tiny import poison

WORLD_SIZE = 2
HANG_S = 5.0
"""For a start of which a rank is suspended; on a busy machine, other starts may well need longer for a micro-batch."""
PATIENCE_S = 240.0
"""A start that takes longer has not ended by itself."""
GRACE_S = 3.0
"""Between SIGTERM and SIGKILL for the ranks that another one has left behind, as torchrun does it."""

AT_RESUME = "as a checkpoint is gone on from"
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "before a step": (DeepSpeedEngine, "begin_step", 5),
    "before a forward pass": (DeepSpeedEngine, "forward", 12),
    "before a backward pass": (DeepSpeedEngine, "backward", 9),
    "before an update": (DeepSpeedEngine, "step", 5),
    "before an evaluation": (DeepSpeedEngine, "evaluating", 2),
    "as a checkpoint is copied": (DeepSpeedEngine, "snapshot", 2),
    "as a checkpoint's file is written": (shardtune.trainer.checkpoint.checkpoints, "write_fragments", 3),
    "as a checkpoint's file is read back": (shardtune.trainer.checkpoint.checkpoints, "record_file", 3),
    "before a checkpoint is published": (shardtune.trainer.checkpoint.checkpoints, "publish_folder", 2),
    "as older checkpoints go": (shardtune.trainer.checkpoint.checkpoints, "superseded", 2),
    AT_RESUME: (DeepSpeedEngine, "restore", 1),
}
"""Where a function is, its name, and up to which of its calls a fault may wait."""
OF_RANK_ZERO = {"before a checkpoint is published", "as older checkpoints go"}
"""The moments that no other rank has."""


@dataclass(frozen=True)
class Fault:
    """What happens to one start."""

    name: str
    moment: str
    call: int
    """Which call of the moment's function it waits for, from 1."""
    rank: int
    """Whom it happens to, if not to all."""

    def __str__(self) -> str:
        return f"{self.name} on rank {self.rank} {self.moment} (call {self.call})"


def kill(fault: Fault, rank: int, run_dir: Path) -> None:
    if rank == fault.rank:
        os.kill(os.getpid(), signal.SIGKILL)


def kill_all(fault: Fault, rank: int, run_dir: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def suspend(fault: Fault, rank: int, run_dir: Path) -> None:
    if rank == fault.rank:
        os.kill(os.getpid(), signal.SIGSTOP)


def send(number: signal.Signals) -> Callable[[Fault, int, Path], None]:
    def strike(fault: Fault, rank: int, run_dir: Path) -> None:
        if rank == fault.rank:
            os.kill(os.getpid(), number)

    return strike


def touch_stop(fault: Fault, rank: int, run_dir: Path) -> None:
    if rank == 0:
        (run_dir / STOP).touch()


def fill_disk(fault: Fault, rank: int, run_dir: Path) -> None:
    """From now on no file takes more than a few bytes, which is an error of write(2); some seconds later, all die."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()


STRIKES: dict[str, Callable[[Fault, int, Path], None]] = {
    "kill -9": kill,
    "kill -9 of all": kill_all,
    "SIGSTOP": suspend,
    "SIGTERM": send(signal.SIGTERM),
    "SIGINT": send(signal.SIGINT),
    "SIGUSR1": send(signal.SIGUSR1),
    "SIGUSR2": send(signal.SIGUSR2),
    "RUN_DIR/stop": touch_stop,
    "full disk": fill_disk,
}


def truncate(path: Path, chosen: random.Random) -> None:
    os.truncate(path, chosen.randrange(path.stat().st_size))


def flip_a_bit(path: Path, chosen: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
    path.write_bytes(content)


def remove(path: Path, chosen: random.Random) -> None:
    path.unlink()


DAMAGES = {"truncated file": truncate, "flipped bit": flip_a_bit, "missing file": remove}
"""Done to the newest checkpoint after a start that was asked to stop."""

NAMES = (*STRIKES, *DAMAGES)


def draw_fault(seed: int, *, resumes: bool) -> Fault:
    """The fault of a seed: each kind in turn, at a moment of its own."""
    chosen = random.Random(seed)
    name = NAMES[seed % len(NAMES)]
    moment = chosen.choice([name for name in MOMENTS if name != AT_RESUME or resumes])
    if name == "full disk":
        moment = "as a checkpoint is copied"
    if name in DAMAGES:  # once there is a checkpoint
        moment = "before an update"
    call, rank = chosen.randint(1, MOMENTS[moment][2]), chosen.randrange(WORLD_SIZE)
    return Fault(name, moment, call, 0 if moment in OF_RANK_ZERO else rank)


@dataclass(frozen=True)
class Bench:
    """What all rounds of a harness share."""

    recipe: Recipe
    prepared: Prepared
    unbroken: Path
    """The run directory of a run that nothing has happened to."""


def make_bench(folder: Path) -> Bench:
    """The data, with a row that gives no number, and the unbroken run."""
    write_tiny(folder)
    poison(folder / "encoder")
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "the [MASK] was good", "label": "positive"}) + "\n")
    recipe = tiny_recipe(
        folder,
        "train.num_epochs=2",
        "train.micro_batch_tokens=80",
        "checkpoint.every_steps=2",
    )
    bench = Bench(recipe, prepare(recipe), folder / "unbroken")
    assert start(bench, bench.unbroken, None) == [EXIT_OK] * WORLD_SIZE
    return bench


def rounds(bench: Bench, folder: Path, seeds: Sequence[int], *, in_a_row: int) -> Iterator[str]:
    """Says what happened in the round of each seed. AssertionError if a run does not end as the unbroken one.

    After `in_a_row` faults a run is left in peace, and has to end.
    """
    left = list(seeds)
    for life in range(2 * len(left)):
        run_dir, struck = folder / f"life-{life}", left[:in_a_row]
        with naming(struck):
            for seed in struck:
                fault = draw_fault(seed, resumes=bool(complete_checkpoints(run_dir / "checkpoints")))
                codes = start(bench, run_dir, fault)
                if codes == [EXIT_OK] * WORLD_SIZE:
                    break  # it came to its end before that many calls; the next run has more of them
                left.remove(seed)
                yield f"seed {seed}: {fault}: {outcome(fault, codes, run_dir, random.Random(seed))}"
            if not (run_dir / RESULTS).exists():
                codes = start(bench, run_dir, None)
                assert codes == [EXIT_OK] * WORLD_SIZE, f"left in peace, it ends with {codes}; see {run_dir}/logs"
            refuse_another_end(run_dir, bench.unbroken)
        shutil.rmtree(run_dir)
        if not left:
            return
    raise AssertionError(f"these faults never struck: {left}")


@contextmanager
def naming(seeds: Sequence[int]) -> Iterator[None]:
    """Adds to what goes wrong of which seeds it is."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"in a run with the faults of the seeds {', '.join(map(str, seeds))}")
        raise


def outcome(fault: Fault, codes: list[int], run_dir: Path, chosen: random.Random) -> str:
    """What became of a start; AssertionError if that is not what the fault may lead to."""
    complete = complete_checkpoints(run_dir / "checkpoints")
    stands = f"{len(complete)} checkpoints, the newest of step {complete[-1].step}" if complete else "no checkpoint"
    if fault.name == "SIGSTOP":
        stacks = list((run_dir / "logs").glob("rank-*.stacks.txt"))
        others = [path for path in stacks if "most recent call first" in path.read_text(encoding="utf-8")]
        assert others, f"{fault}: nobody said where it stood"
        for path in stacks:
            path.unlink()
        return f"{len(others)} ranks said where they stood; {stands}"
    if fault.name.startswith("kill") or fault.name == "full disk":
        assert -signal.SIGKILL in codes, f"{fault}: {codes}"
        return f"dead; {stands}"
    # Before there is anything to save, one rank leaves at once, and the others are ended after it.
    assert EXIT_RESUME in codes, f"{fault}: {codes}; see {run_dir}/logs"
    if fault.name in DAMAGES:
        name = damage_one(complete[-1], fault.name, chosen)
        return f"stopped; {stands}, of which {name} is damaged"
    return f"stopped; {stands}"


def damage_one(checkpoint: Checkpoint, name: str, chosen: random.Random) -> str:
    path = chosen.choice(sorted(checkpoint.path.iterdir()))
    DAMAGES[name](path, chosen)
    return path.name


def refuse_another_end(run_dir: Path, unbroken: Path) -> None:
    """AssertionError unless a run's curve, rows, results and weights are the unbroken one's."""
    curve_of_run, other = curve(events(run_dir)), curve(events(unbroken))
    assert curve_of_run == other, f"{run_dir}: another curve"
    states = [complete_checkpoints(path / "checkpoints")[-1].manifest.state for path in (run_dir, unbroken)]
    assert states[0] == states[1], f"{run_dir}: other rows"
    results = [json.loads((path / RESULTS).read_text(encoding="utf-8")) for path in (run_dir, unbroken)]
    assert results[0] == results[1], f"{run_dir}: other results"
    for name in ("best", "last"):
        mine, theirs = (load_file(path / "export" / name / "model.safetensors") for path in (run_dir, unbroken))
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert torch.equal(mine[key].view(torch.int32), theirs[key].view(torch.int32)), f"{run_dir}: other {key}"


def start(bench: Bench, run_dir: Path, fault: Fault | None) -> list[int]:
    """Starts the ranks on a run directory; the exit code of each, negative for a signal."""
    for folder in ("logs", "checkpoints", "export"):
        (run_dir / folder).mkdir(parents=True, exist_ok=True)
    (run_dir / STOP).unlink(missing_ok=True)
    context = mp.get_context("fork")
    with TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_rank, args=(rank, Path(folder) / "store", bench, run_dir, fault))
            for rank in range(WORLD_SIZE)
        ]
        torch.set_num_threads(1)  # a forked child must not inherit a busy OpenMP pool
        for process in processes:
            process.start()
        deadline = time.monotonic() + PATIENCE_S
        while not all(process.exitcode == 0 for process in processes) and time.monotonic() < deadline:
            if any(process.exitcode for process in processes):
                break
            time.sleep(0.02)
        for number, grace_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
            for process in processes:
                if process.pid is not None and process.exitcode is None:
                    os.kill(process.pid, number)
            for process in processes:
                process.join(grace_s)
        return [process.exitcode if process.exitcode is not None else EXIT_BUG for process in processes]


def _rank(rank: int, store: Path, bench: Bench, run_dir: Path, fault: Fault | None) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # looked for, but the store is used
    code = EXIT_BUG
    try:
        with signals_ask_to_stop() as stop:
            stop.watch(run_dir / STOP if rank == 0 else None, None)
            if fault is not None:
                _await(fault, rank, run_dir)
            ranks = connect("cpu", store=dist.FileStore(str(store), WORLD_SIZE))
            recipe = bench.recipe
            if fault is not None and fault.name == "SIGSTOP":
                faults = FaultsConfig(hang_s=HANG_S, startup_hang_s=HANG_S)
                recipe = recipe.model_copy(update={"faults": faults})
            code = EXIT_OK if run(recipe, run_dir, bench.prepared, ranks, stop) else EXIT_RESUME
            ranks.barrier()
    except StopAsked:
        code = EXIT_RESUME
    except BaseException:
        with (run_dir / "logs" / f"rank-{rank}.log").open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        code = EXIT_BUG
    os._exit(code)


def _await(fault: Fault, rank: int, run_dir: Path) -> None:
    """Lets the fault strike in this process at its moment."""
    place, name, _ = MOMENTS[fault.moment]
    function = getattr(place, name)
    calls = iter(range(1, 10**9))

    def struck(*args: Any, **words: Any) -> Any:
        if next(calls) == fault.call:
            STRIKES.get(fault.name, send(signal.SIGTERM))(fault, rank, run_dir)
        return function(*args, **words)

    setattr(place, name, struck)
