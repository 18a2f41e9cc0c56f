"""What the system refuses is one line that names the path, and never a traceback."""

import errno
import json
import os
from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, DataError, system_fault
from shardtune.launcher import cli
from shardtune.launcher.commands.command import Command
from shardtune.recipe.load import parse_recipe
from shardtune.run_dir.run import Run, write_run_dir
from shardtune.trainer.commands.json_output import print_report
from shardtune.trainer.data.prepare import prepare

RECIPE = "task: {kind: classification}\nmodel: {path: /m}\ndata: {train: /t.csv}\n"


def test_a_path_and_a_cure_are_named() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert system_fault(full, "/out.jsonl") == "/out.jsonl: No space left on device; free space, or name another folder"
    assert (system_fault(OSError(errno.EROFS, "Read-only file system", "/x")) or "").startswith("/x: Read-only")
    assert system_fault(OSError(errno.ENOENT, "No such file or directory", "/x")) is None


@pytest.mark.parametrize("name", ["file", "file/below", "n" * 300])
def test_a_run_directory_that_cannot_be_made_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "x.yaml").write_text(RECIPE)
    with pytest.raises(CheckpointError) as error:
        write_run_dir(Run(parse_recipe(RECIPE), tmp_path / name, tmp_path / "x.yaml"))
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path / name} cannot be written to (") and line.endswith(
        "or give another --run-dir, or --sweep-dir for a sweep"
    )


def test_a_run_directory_on_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "x.yaml").write_text(RECIPE)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"/run cannot be written to .No space left on device.; free space"):
        write_run_dir(Run(parse_recipe(RECIPE), tmp_path / "run", tmp_path / "x.yaml"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_command_and_a_report_end_in_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> int:
        raise OSError(number, os.strerror(number), "/the/path")

    monkeypatch.setitem(cli.COMMANDS, "schema", lambda: Command(refused))
    assert cli._carry_out(["schema"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(f"shardtune: /the/path: {os.strerror(number)}; ")
    assert print_report(refused, print, as_json=True) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"errors": [shown.err.strip()]} and shown.err.startswith("/the/path: ")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/ours")

    monkeypatch.setitem(cli.COMMANDS, "schema", lambda: Command(broken))
    with pytest.raises(FileNotFoundError):
        cli._carry_out(["schema"])
    with pytest.raises(FileNotFoundError):
        print_report(broken, print, as_json=False)


def test_no_temporary_folder_is_no_fault_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(prepare.tempfile, "gettempdir", none)
    with (
        pytest.raises(DataError, match="no temporary folder can be written to; free space, or set TMPDIR"),
        prepare._explained(tmp_path),
        prepare._machine_lock(tmp_path / "data", "", print),
    ):
        pass
