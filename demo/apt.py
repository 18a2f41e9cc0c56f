"""Packages of Debian and Ubuntu as a source of data: fetched with apt-get, unpacked, never installed."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from demo.fetch import FetchError


def download(packages: Sequence[str], folder: Path, *, size: str) -> None:
    """Fetches the packages, all from the lists of one moment, into the folder with apt-get. Raises FetchError."""
    names = " ".join(packages)
    by_hand = f"on a Debian or Ubuntu machine run `apt-get download {names}`, and put the files into {folder}"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise FetchError(f"this machine has no apt-get and dpkg-deb, which fetch and unpack {names}; {by_hand}")
    print(f"fetching {names} with apt-get ({size})", file=sys.stderr, flush=True)
    with TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        # Private package lists: the machine's may be old, or missing as in a container, and only root may update them.
        private = Path(temporary, "apt")
        for needed in ("state/lists/partial", "cache/archives/partial"):
            (private / needed).mkdir(parents=True)
        options = {
            "Dir::State": f"{private}/state",
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": f"{private}/cache",
        }
        apt = ["apt-get", "--quiet", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
        for command in (["update"], ["download", *packages]):
            result = subprocess.run(
                [*apt, *command],
                cwd=temporary,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
            )
            if result.returncode:
                lines = [line.removeprefix("E:").strip() for line in result.stderr.splitlines() if line[:2] == "E:"]
                reason = lines[0] if lines else f"exit code {result.returncode}"
                raise FetchError(f"`apt-get {' '.join(command)}` failed ({reason}); alternatively, {by_hand}")
        for archive in Path(temporary).glob("*.deb"):
            archive.replace(folder / archive.name)


def unpack(archive: Path, target: Path) -> str:
    """Unpacks a package into a folder; returns what went wrong, "" for nothing."""
    result = subprocess.run(
        ["dpkg-deb", "-x", str(archive), str(target)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return "" if result.returncode == 0 else result.stderr.strip() or f"exit code {result.returncode}"
