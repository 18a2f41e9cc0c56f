"""A sweep is an array of jobs, each a run of its own, and what has failed is done again alone."""

import json
from pathlib import Path

import pytest

from tests.support.slurm_cluster import Cluster, wait_for
from tests.support.slurm_jobs import CPU, START_S, Shardtune, endings

POINTS = """\
- {train.seed: 1}
- {train.seed: 2, optim.lr: 1.0e-4}
- {train.seed: 3, data.train: BAD}
- {train.seed: 4}
"""


def test_of_four_points_the_one_that_failed_is_done_again_alone(
    cluster: Cluster, shardtune: Shardtune, tiny: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "no label"}\n')
    (tmp_path / "points.yaml").write_text(POINTS.replace("BAD", str(bad)))
    words = ["--points=points.yaml", "--parallel=2", "--sweep-dir=s", *CPU, "train.max_steps=2"]
    assert shardtune("sweep", "tiny.yaml", "--dry-run", *words).stdout.startswith(f"4 points in {tmp_path / 's'}\n")
    assert not (tmp_path / "s").exists()

    done = shardtune("sweep", "tiny.yaml", "--wait", *words)
    assert done.returncode == 1, done.stderr
    array, *table = done.stdout.splitlines()
    number = array.split()[2].removesuffix(";")
    assert [endings(tmp_path / "s" / point) for point in "0123"] == [
        [("finished", "finished")],
        [("finished", "finished")],
        [("failed", "failure")],
        [("finished", "finished")],
    ]
    assert "bad.jsonl" in next((tmp_path / "s" / "2" / "logs").glob(f"slurm-{number}_2.out")).read_text()
    header, *rows = table[1 : table.index("", 1)]  # behind it are the means of points that differ by their seed alone
    assert header.split()[:3] == ["POINT", "STATE", "dev/accuracy"]
    assert rows[-1].split()[:2] == ["2", "failed"]
    assert {row.split()[0] for row in rows} == set("0123")
    page = (tmp_path / "s" / "report.html").read_text()
    assert page.count("<svg") >= 2 and "optim.lr=0.0001" in page

    bad.write_text((tiny / "train.jsonl").read_text())
    before = {point: (tmp_path / "s" / point / "results.json").stat().st_mtime_ns for point in "013"}
    done = shardtune("sweep", "s", "--wait")
    assert done.returncode == 0, done.stderr
    assert endings(tmp_path / "s" / "2") == [("failed", "failure"), ("finished", "finished")]
    assert before == {point: (tmp_path / "s" / point / "results.json").stat().st_mtime_ns for point in "013"}
    assert {json.loads((tmp_path / "s" / point / "results.json").read_text())["step"] for point in "0123"} == {2}
    assert "job array" not in shardtune("sweep", "s").stdout  # nothing is left to do


def test_training_does_not_begin_if_the_data_cannot_be_prepared(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "no label"}\n')
    done = shardtune("submit", "tiny.yaml", "--prepare", "--run-dir=r", *CPU, "data.train=bad.jsonl")
    assert done.returncode == 0, done.stderr
    first, job = (line.split()[1].rstrip(";") for line in done.stdout.splitlines()[:2])
    wait_for(lambda: cluster.state(job) == "CANCELLED", START_S, every_s=0.5)
    assert cluster.state(first) == "FAILED"
    assert "bad.jsonl" in (tmp_path / "r" / "logs" / f"prepare-{first}.out").read_text()
    said = shardtune("status", "r").stdout
    assert "lost: job" in said and "DependencyNeverSatisfied" in said
    assert endings(tmp_path / "r") == []


def test_seeds_parts_and_folds_are_arrays_whose_results_come_together(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    lines = (tmp_path / "tiny.yaml").read_text().splitlines(keepends=True)
    (tmp_path / "tiny.yaml").write_text("".join(line for line in lines if not line.startswith("  seed:")))
    short = [*CPU, "train.max_steps=2"]
    done = shardtune("submit", "tiny.yaml", "--wait", "--run-dir=s", "train.seeds=[1,2]", *short)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [endings(tmp_path / "s" / f"seed-{seed}") for seed in (1, 2)] == [[("finished", "finished")]] * 2
    (over_seeds,) = json.loads((tmp_path / "s" / "results.json").read_text())["over_seeds"]
    found = [json.loads((tmp_path / "s" / f"seed-{seed}" / "results.json").read_text()) for seed in (1, 2)]
    mean = sum(one["dev"]["loss"] for one in found) / 2
    assert over_seeds["metrics"]["dev/loss"]["mean"] == pytest.approx(mean)

    done = shardtune("submit", "tiny.yaml", "--wait", "--run-dir=f", "--fractions=0.5,1.0", *CPU, "train.num_epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [endings(tmp_path / "f" / f"part-{part}") for part in (1, 2)] == [[("finished", "finished")]] * 2
    assert "more rows" in (tmp_path / "f" / "report.html").read_text()

    done = shardtune("suspects", "s/seed-1", "--folds=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job array" in done.stderr
    assert [endings(path)[-1] for path in sorted((tmp_path / "s" / "seed-1-folds-2").glob("[0-9]"))] == [
        ("finished", "finished")
    ] * 2
    assert (tmp_path / "s" / "seed-1" / "suspects.jsonl").is_file()
