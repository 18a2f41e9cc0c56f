"""The memory of a machine is what its processes may use of it."""

from pathlib import Path

from shardtune.machine.host_memory import host_memory, limits_of_memory


def test_a_container_or_a_jobs_limit_is_the_memory_that_there_is(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/self/cgroup", "4:memory:/slurm/job_7\n1:cpu:/slurm\n0::/user/one\n")
    write("sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", "9223372036854771712\n")
    write("sys/fs/cgroup/memory/slurm/memory.limit_in_bytes", "8000\n")
    write("sys/fs/cgroup/user/one/memory.max", "max\n")
    write("sys/fs/cgroup/memory.max", "7000\n")
    write("sys/fs/memory.max", "1\n")
    assert list(limits_of_memory(tmp_path)) == [9223372036854771712, 8000, 7000]


def test_a_machine_has_memory() -> None:
    assert 2**28 < host_memory() < 2**46
