"""A real Slurm on this machine: slurmctld, munged and virtual nodes in namespaces of their own.

The nodes have host names, addresses and (fake) GPUs of their own and this machine's files; its network, its processes
and its file system see nothing of them. All of it ends with the process that started it, however that ends.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shardtune.launcher.slurm.allocation import parse_details

ROOT = Path(__file__).parents[2]
MACHINE = Path(__file__).parent / "slurm_lab" / "machine.sh"
NAMESPACES = ("--net", "--uts", "--mount", "--ipc", "--pid")
TOOLS = {
    "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge", "ip": "iproute2",
    "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux",
}  # fmt: skip
"""Program -> the Debian package that has it."""
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"])
START_S = 20.0

T = TypeVar("T")


def why_not() -> str | None:
    """Why no cluster can be brought up here; None if one can."""
    if os.geteuid() != 0:
        return "a test cluster needs root: its nodes are namespaces"
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=PATH) is None})
    if missing:
        return f"no Slurm is installed: apt-get install {' '.join(missing)} (`make test` does so when it is root)"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up; commands are run on its controller, as on a login node, if no node is named."""

    init_pid: int
    """The controller's PID 1, as this machine counts."""
    num_nodes: int

    def argv(self, *words: str, cwd: Path, node: int | None = None) -> list[str]:
        """The command line that runs these words on a machine of the cluster, in a folder."""
        enter = ["nsenter", f"--target={self.init_pid}", *NAMESPACES]
        if node is not None:
            pid = self.file(f"node{node}.pid").read_text().strip()
            enter += ["nsenter", f"--target={pid}", *NAMESPACES]
        return [*enter, "env", f"--chdir={cwd}", *words]

    def run(
        self,
        *words: str,
        cwd: Path,
        node: int | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Runs the words to their end, whatever that is."""
        environment = os.environ | {"PATH": PATH} | dict(env or {})
        argv = self.argv(*words, cwd=cwd, node=node)
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)

    def ask(self, *words: str) -> str:
        """What a command that must succeed says; asked again where the controller is just being restarted."""
        for _ in range(10):
            done = self.run(*words, cwd=Path("/"))
            if done.returncode == 0 or not any(words in done.stderr for words in RESTARTING):
                break
            time.sleep(1)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def file(self, name: str) -> Path:
        """A file of the cluster's own, such as slurmctld.log, as this machine sees it."""
        return Path(f"/proc/{self.init_pid}/root/run/slurm") / name

    def crash(self, node: int) -> None:
        """Cuts a node's power."""
        self._machine("crash", node)

    def boot(self, node: int) -> None:
        """Starts a node that has crashed; it has joined again when this returns."""
        self._machine("boot", node)
        self.wait_for_nodes(f"node{node}")

    def cut(self, node: int) -> None:
        """Pulls a node's network cable; its processes live on."""
        self._machine("cut", node)

    def mend(self, node: int) -> None:
        """Plugs it in again; the node has joined again when this returns."""
        self._machine("mend", node)
        self.wait_for_nodes(f"node{node}")

    def slow_down(self, node: int, rate: str) -> None:
        """Lets a node's network send no more than this, such as 20mbit."""
        self._machine("slow", node, rate)

    def speed_up(self, node: int) -> None:
        """Takes that back."""
        self._machine("fast", node)

    def restart_controller(self) -> None:
        """Kills slurmctld and starts it again."""
        self._machine("restart")

    def wait_for_nodes(self, *names: str) -> None:
        """Waits until these nodes are there to be used; all, if none is named."""
        nodes = ",".join(names) or f"node[1-{self.num_nodes}]"
        wait_for(lambda: not self.ask("sinfo", "-h", "-n", nodes, "-t", "down,drain,no_respond,unknown", "-o", "%n"))

    def state(self, job: str) -> str:
        """A job's state in Slurm's words, such as RUNNING or COMPLETED."""
        return self.field(job, "JobState")

    def field(self, job: str, name: str) -> str:
        """One of the fields that scontrol has of a job."""
        return parse_details(self.ask("scontrol", "show", "job", "--oneliner", job))[name]

    def cancel_all(self) -> None:
        """Leaves no job behind for the next test."""
        self.ask("scancel", "--user=root")
        wait_for(lambda: not self.ask("squeue", "-h"))

    def _machine(self, *words: str | int) -> None:
        done = self.run(str(MACHINE), *map(str, words), cwd=Path("/"))
        assert done.returncode == 0, done.stderr


RESTARTING = ("Unable to contact", "Connection reset", "Connection refused", "Socket timed out")
"""What Slurm's commands say of a controller that goes away under them, or is not there yet."""


@contextmanager
def open_cluster(num_nodes: int) -> Iterator[Cluster]:
    """Brings a cluster up, in about a second, and down again."""
    # PR_SET_PDEATHSIG on both processes in between: when this one is gone, PID 1 is killed, and with it all others.
    argv = ["setpriv", "--pdeathsig=KILL", "unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen(
        [*argv, str(MACHINE), "controller", str(num_nodes)],
        env=os.environ | {"PATH": PATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        cluster = Cluster(_init_pid(process), num_nodes)
        wait_for(lambda: cluster.run("scontrol", "ping", cwd=Path("/")).returncode == 0, START_S)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        process.kill()
        process.communicate()


def wait_for(met: Callable[[], T], timeout_s: float = 60.0, *, every_s: float = 0.05) -> T:
    """What it returns, as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while not (answer := met()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(every_s)
    return answer


def _init_pid(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        # The child is there before it is PID 1 with mounts of its own; the script is the sign.
        for child in children.read_text().split():
            if str(MACHINE).encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[1:]:
                return int(child)
        time.sleep(0.01)
    assert process.stdout is not None
    raise AssertionError(f"the controller did not start: {process.stdout.read().decode()}")


if __name__ == "__main__":
    if reason := why_not():
        sys.exit(f"slurm-lab: {reason}")
    with open_cluster(num_nodes=2) as lab:
        print(
            "A cluster of node1 and node2, 8 CPUs and 2 fake GPUs each; exit ends it. Its logs: /run/slurm", flush=True
        )
        shell = [os.environ.get("SHELL", "/bin/bash")]
        subprocess.run(lab.argv(*shell, cwd=Path.cwd()), env=os.environ | {"PATH": PATH}, check=False)
