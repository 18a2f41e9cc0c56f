"""What a run says of where it trains."""

from pathlib import Path

from shardtune.trainer.reporting.environment import environment_of


def test_versions_hosts_devices_and_the_ids_of_the_job(tmp_path: Path) -> None:
    devices = [("node1", "H100"), ("node1", "H100"), ("node2", "A100")]
    slurm = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "WANDB_API_KEY": "secret", "HOME": "/"}
    found = environment_of(devices, slurm, tmp_path)
    assert found["hosts"] == ["node1", "node2"]
    assert found["devices"] == {"A100": 1, "H100": 2}
    assert found["slurm"] == {"job": "7", "array_task": "3"}
    assert {"python", "torch", "transformers"} <= found["versions"].keys()
    assert "git" not in found, "the folder is in no repository"
    assert "git" in environment_of(devices, {}, Path(__file__).parent)
