"""A job says its plan before it is submitted, for the GPUs that Slurm or the user names, with warnings."""

import json
from pathlib import Path

import pytest

from shardtune.errors import ConfigError
from shardtune.known_machine.fingerprint import identify
from shardtune.known_machine.store import keep_calibration
from shardtune.launcher.plan.outlook import Outlook
from shardtune.launcher.slurm.outlook import UNKNOWN, outlook_of_submission
from shardtune.launcher.slurm.submission import plan_submission
from shardtune.launcher.slurm.text import Nodes, parse_gpu_kind
from tests.launcher.commands.conftest import LLAMA_8B, RECIPE
from tests.support.calibrations import calibration

CLUSTER = [
    Nodes("main", True, 14, 8, 64000, 2, None),
    Nodes("big", False, 2, 128, 1031000, 8, 2 * 86400, 3600, "nvidia_a100_sxm4_80gb"),
    Nodes("odd", False, 2, 128, 1031000, 8, None, None, "tesla_x9"),
    Nodes("cpu", False, 600, 4, 2048, 0, 1800),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(LLAMA_8B), encoding="utf-8")
    (tmp_path / "train.txt").write_text(f"{'word ' * 400}\n" * 640, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def outlook(*overrides: str, gpu: str | None = None) -> Outlook:
    submission = plan_submission(Path("recipe.yaml"), overrides, Path("run"), CLUSTER)
    return outlook_of_submission(submission, CLUSTER, gpu, now=1.7e9)


def test_the_gpus_are_those_of_slurms_gres_or_of_the_flag() -> None:
    assert "GiB of a a100-sxm-80g" in outlook("job.partition=big").lines[0]
    assert "GiB of a h100-sxm-80g" in outlook("job.partition=big", gpu="h100").lines[0]
    assert outlook().lines == (UNKNOWN,)
    assert "unknown GPU 'tesla_x9'" in outlook("job.partition=odd").lines[0]
    assert outlook("job.partition=cpu", "job.device=cpu", "engine.precision=fp32") == Outlook((), None)
    with pytest.raises(ConfigError, match="unknown GPU 'h1000'"):
        outlook(gpu="h1000")


def test_cpu_ranks_of_a_node_are_planned_if_the_machine_that_submits_was_measured() -> None:
    keep_calibration(identify(), calibration(identify().fingerprint))
    words = ("job.partition=cpu", "job.device=cpu", "engine.precision=fp32", "engine.deepspeed=null")
    found = outlook(*words, "train.micro_batch_tokens=2048")
    assert any(line.startswith("plan: ends at about ") for line in found.lines)
    assert found.lines[-1] == "plan: if the node is like this machine, which was measured"
    assert found.record is not None and "machine" not in found.record
    assert outlook(*words, "job.nodes=2") == Outlook((), None)


def test_gpus_that_cannot_hold_it_and_a_limit_that_is_too_short_are_warned_of() -> None:
    *_, held = outlook("job.partition=big", "engine.deepspeed=zero0").lines
    assert held.startswith("warning: 8 x a100-sxm-80g cannot hold this")
    *_, short = outlook("job.partition=big", "train.max_steps=5000", "checkpoint.every_steps=5000").lines
    assert short.startswith("warning: job.time_limit=01:00:00 leaves ")  # the partition's default


@pytest.mark.parametrize(
    ("gres", "kind"),
    [
        ("gpu:a100:4(S:0-1),shard:8", "a100"),
        ("gpu:4", None),
        ("gpu:a100:2,gpu:v100:2", None),
        ("(null)", None),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1)", "nvidia_h100_80gb_hbm3"),
    ],
)
def test_the_kind_of_gpu_is_read_from_gres(gres: str, kind: str | None) -> None:
    assert parse_gpu_kind(gres) == kind
