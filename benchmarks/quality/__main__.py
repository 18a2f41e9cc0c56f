"""Is shardtune as good as transformers.Trainer, and how much sooner?

Three data sets and three seeds, the same rows, encoder, epochs, global batch, learning rate, schedule, weight decay,
precision and number of processes on both sides, one training after another. The last model of each side is compared on
the same test rows. Exit code 1 if shardtune is significantly worse on a data set (p < 0.05 after Holm), or needs more
than half of the peer's time to be as good. Finished trainings are kept in --folder, and not done again. About 20
minutes on two cores with bf16 instructions: 1,500 training rows of each data set, 2 epochs, 300 dev and at most 1,000
test rows.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks.fetched import fetched
from benchmarks.quality.cases import CASES, FULL, MODEL, QUICK, Case, read_rows, write_case
from benchmarks.quality.plot import draw
from benchmarks.quality.sides import OURS, PEER, Execute, Reached, Settings, measure
from benchmarks.quality.verdict import Compared, Verdict, compare, render
from benchmarks.trainer_example import run_logged
from shardtune.trainer.setup.precision import has_bf16


def main(
    arguments: Sequence[str] | None = None, *, cases: Sequence[Case] = CASES, execute: Execute = run_logged
) -> int:
    given = _parse(arguments, cases)
    chosen = [case for case in cases if given.case is None or case.name in given.case]
    settings = Settings(
        str(given.model),
        QUICK if given.quick else FULL,
        given.precision,
        given.ranks,
        max(1, len(os.sched_getaffinity(0)) // given.ranks),
    )
    _keep_settings(given.folder, settings)
    compared = _measure_all(chosen, given.seeds, given.folder, settings, execute)
    verdict = Verdict(compared)
    print(
        f"{settings.size.epochs} epochs of at most {settings.size.rows[0]:,} rows, {settings.precision}, "
        f"{settings.ranks} ranks x {settings.threads} threads, seeds {', '.join(map(str, given.seeds))}"
    )
    print(render(verdict))
    numbers = {"settings": asdict(settings), "seeds": given.seeds, **verdict.as_json()}
    (given.folder / "quality.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    (given.folder / "quality.svg").write_text(draw(compared), encoding="utf-8")
    print(f"numbers: {given.folder / 'quality.json'}; picture: {given.folder / 'quality.svg'}")
    if given.quick:
        print("--quick only tries the command: so few rows say nothing about either side")
        return 0
    return 1 if verdict.faults else 0


def _measure_all(
    cases: Sequence[Case], seeds: Sequence[int], folder: Path, settings: Settings, execute: Execute
) -> list[Compared]:
    """Trains both sides on all data sets with all seeds; says what each has reached."""
    total, done, began = len(cases) * len(seeds) * 2, 0, time.monotonic()
    compared = []
    for case in cases:
        own = folder / case.name
        fetched(partial(write_case, case, own / "data", settings.size))
        reached: list[Reached] = []
        for seed in seeds:
            for side in (PEER, OURS):
                reached.append(measure(case, side, seed, own, settings, execute))
                done += 1
                last, minutes = reached[-1], (time.monotonic() - began) / 60
                print(
                    f"[{done}/{total}, {minutes:.1f} min] {case.name}, seed {seed}, {side}: dev {case.metric} "
                    f"{last.dev:.4f}, {last.train_s:.1f} s of training, {last.wall_s:.0f} s in all",
                    file=sys.stderr,
                    flush=True,
                )
        compared.append(compare(case, read_rows(own / "data" / "test.jsonl"), reached))
    return compared


def _keep_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings into the folder; ends the process if trainings with others are there."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "settings.json", json.dumps(asdict(settings), indent=1)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        print(
            f"benchmarks: {folder} has trainings with other settings; delete it, or give another --folder",
            file=sys.stderr,
        )
        raise SystemExit(2)
    path.write_text(text, encoding="utf-8")


def _parse(arguments: Sequence[str] | None, cases: Sequence[Case]) -> argparse.Namespace:
    precision = "bf16" if has_bf16("cuda" if torch.cuda.is_available() else "cpu") else "fp32"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, one epoch and no verdict, to try the command")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--case", choices=[case.name for case in cases], action="append", help="only this data set")
    parser.add_argument(
        "--ranks", type=int, choices=[1, 2, 4, 8], default=2, help="processes per side (default: %(default)s)"
    )
    parser.add_argument("--precision", choices=["bf16", "fp32"], default=precision, help="default: %(default)s")
    parser.add_argument("--model", type=Path, default=MODEL, help="the encoder's folder (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="default: runs/quality, with --quick runs/quality-quick")
    given = parser.parse_args(arguments)
    given.folder = (given.folder or Path("runs", "quality-quick" if given.quick else "quality")).absolute()
    return given


if __name__ == "__main__":
    sys.exit(main())
