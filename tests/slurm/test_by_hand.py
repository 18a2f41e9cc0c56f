"""The scripts of slurm/, handed in by hand, one after another; the container runtimes are programs that only say so."""

import json
import os
from pathlib import Path

from tests.support.slurm_cluster import PATH, Cluster
from tests.support.slurm_jobs import (
    CPU,
    FINETUNE,
    START_S,
    Shardtune,
    endings,
    messages,
    sbatch,
    wait_for_ends,
)

SLURM = FINETUNE.parent
APPTAINER = """#!/bin/bash
printf '%s\\n' "$*" >>{said}/apptainer.txt
while [[ $1 != image.sif ]]; do shift; done
exec "${{@:2}}"
"""
PYXIS = """#!/bin/bash
printf '%s\\n' "$*" >>{said}/srun.txt
words=()
for word; do [[ $word == --container-* ]] || words+=("$word"); done
exec {srun} "${{words[@]}}"
"""
"""Slurm's srun with pyxis knows --container-image; the cluster of the tests has no pyxis."""


def container(folder: Path, runtime: str, program: str, text: str) -> dict[str, str]:
    """The environment of sbatch in which this runtime is the program with this text, and says in the folder what it was
    called with."""
    path = folder / runtime / program
    path.parent.mkdir()
    path.write_text(text.format(said=folder, srun=_slurms_own("srun")))
    path.chmod(0o755)
    return {
        "PATH": f"{path.parent}:{PATH}",
        "SHARDTUNE_CONTAINER": "image.sif",
        "SHARDTUNE_CONTAINER_RUNTIME": runtime,
        "SHARDTUNE_CONTAINER_MOUNTS": "/scratch:/scratch",
    }


def _slurms_own(program: str) -> str:
    return next(f"{folder}/{program}" for folder in PATH.split(":") if os.access(f"{folder}/{program}", os.X_OK))


def test_data_are_prepared_then_trained_on_then_rows_answered_and_a_sweep_beside_it(
    cluster: Cluster, shardtune: Shardtune, tiny: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "r"
    short = ["train.max_steps=2", f"data.cache_dir={tmp_path}/cache"]
    words = [tmp_path / "tiny.yaml", *short, *CPU]
    prepare = sbatch(cluster, SLURM / "prepare.sh", *words, cwd=tmp_path, **container(tmp_path, "pyxis", "srun", PYXIS))
    finetune = sbatch(
        cluster,
        f"--dependency=afterok:{prepare}",
        "--kill-on-invalid-dep=yes",
        FINETUNE,
        *words,
        f"--run-dir={run_dir}",
        cwd=tmp_path,
        SHARDTUNE_CPU_BIND="cores",
        **container(tmp_path, "apptainer", "apptainer", APPTAINER),
    )
    evaluation = sbatch(
        cluster,
        f"--dependency=afterok:{finetune}",
        SLURM / "eval.sh",
        run_dir,
        f"--file={tiny / 'test.jsonl'}",
        "--out=predictions.jsonl",
        cwd=tmp_path,
    )
    sweep = ["--grid", "train.seed=1,2", "--sweep-dir=s", *short, *CPU, "--write-only"]
    written = shardtune("sweep", "tiny.yaml", *sweep)
    assert written.stdout == f"sbatch --array=0-1 slurm/sweep.sh {tmp_path / 's'}\n", written.stderr
    array = sbatch(cluster, "--array=0-1%2", SLURM / "sweep.sh", tmp_path / "s", cwd=tmp_path)
    jobs = [prepare, finetune, evaluation, f"{array}_0", f"{array}_1"]
    ends = dict(zip(jobs, wait_for_ends(cluster, jobs, 3 * START_S), strict=True))
    assert set(ends.values()) == {"COMPLETED"}, {job: (end, messages(cluster, job)) for job, end in ends.items()}

    assert "train  67 rows" in (tmp_path / f"slurm-{prepare}.out").read_text()
    assert "tokenizing" not in (tmp_path / f"slurm-{finetune}.out").read_text()
    assert endings(run_dir) == [("finished", "finished")]
    num_rows = len((tiny / "test.jsonl").read_text().splitlines())
    predictions = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == num_rows
    assert [endings(tmp_path / "s" / point) for point in "01"] == [[("finished", "finished")]] * 2

    mounts = f"{tmp_path}:{tmp_path},/scratch:/scratch,{SLURM.parent}:{SLURM.parent}"
    (on_first_node,) = (tmp_path / "srun.txt").read_text().splitlines()
    options = f"--nodes=1 --ntasks=1 --overlap --container-image=image.sif --container-mounts={mounts}"
    assert on_first_node.startswith(f"{options} ") and " -m shardtune.trainer.commands.prepare " in on_first_node
    called = (tmp_path / "apptainer.txt").read_text().splitlines()
    assert all(line.startswith(f"exec --nv --bind {mounts} image.sif ") for line in called)
    modules = [line.split(" -m ")[1].split()[0] for line in called]
    assert modules == [
        "shardtune.launcher.slurm.batch_job",
        "shardtune.trainer",
        "torch.distributed.run",
        "shardtune.launcher.slurm.batch_job",
    ]
