"""What others who may write to a run directory can have executed: nothing. Each way in is tried.

Another user's file is made by changing its owner where the tests run as root, and else by changing who we are.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, LaunchError
from shardtune.home import state_folder
from shardtune.run_dir.run import Run, find_run, write_run_dir
from shardtune.run_dir.trust import executed_lines, settle_trust

RECIPE = """
task: {kind: classification}
model: {path: org/name}
data: {train: train.csv}
job: {device: cpu, preamble: site.sh, sbatch_options: [--exclude=node7]}
"""
NOBODY = 65534


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(RECIPE)
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    for name in ("site.sh", "evil.sh"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def give_to_another(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, -1, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: NOBODY)

    return give


def start(path: Path, *overrides: str, is_trusted: bool = False) -> Run:
    """What each start does before it executes anything."""
    run = find_run(path, overrides, Path("r") if path.is_file() else None)
    settle_trust(run, overrides, is_trusted=is_trusted)
    write_run_dir(run)
    return run


def edit(config: Path, old: str, new: str) -> None:
    """Writes into the file as it is, which keeps its owner."""
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def test_what_a_recipe_has_executed_are_its_programs_and_options() -> None:
    lines = executed_lines(start(Path("x.yaml"), "job.python=/opt/python", "job.container=a.sqsh").recipe)
    assert lines == {
        "job.preamble": str(Path("site.sh").absolute()),
        "job.python": "/opt/python",
        "job.container": "a.sqsh",
        "job.sbatch_options": ("--exclude=node7",),
    }


def test_the_words_of_another_users_config_are_shown_and_refused(
    folder: Path, give_to_another: Callable[[Path], None]
) -> None:
    start(Path("x.yaml"))
    config = folder / "r" / "config.yaml"
    edit(config, "site.sh", "evil.sh")
    edit(config, "python: null", "python: /evil/python")
    give_to_another(config)
    with pytest.raises(LaunchError) as raised:
        start(Path("r"))
    numbers = {line.split(":")[0].strip(): n for n, line in enumerate(config.read_text().splitlines(), start=1)}
    assert [*map(str.strip, str(raised.value).splitlines())][1:3] == [
        f"{config.relative_to(folder)}:{numbers['preamble']}: job.preamble: {folder}/evil.sh",
        f"{config.relative_to(folder)}:{numbers['python']}: job.python: /evil/python",
    ]
    assert "belongs to user " in str(raised.value) and "To accept them, add --trust; to" in str(raised.value)
    start(Path("r"), is_trusted=True)
    start(Path("r"))  # the lines are the user's now


def test_other_values_on_the_command_line_are_the_users_own(give_to_another: Callable[[Path], None]) -> None:
    start(Path("x.yaml"))
    config = Path("r/config.yaml")
    edit(config, "site.sh", "evil.sh")
    give_to_another(config)
    with pytest.raises(LaunchError, match=r"such as job\.preamble=null"):
        start(Path("r"), "train.micro_batch_tokens=1024")
    assert start(Path("r"), "job.preamble=null").recipe.job.preamble is None


def test_a_colleagues_run_that_executes_nothing_is_anybodys(give_to_another: Callable[[Path], None]) -> None:
    Path("x.yaml").write_text(RECIPE.replace(", preamble: site.sh, sbatch_options: [--exclude=node7]", ""))
    start(Path("x.yaml"))
    give_to_another(Path("r/config.yaml"))
    start(Path("r"))


def test_ones_own_run_in_a_folder_of_a_group_goes_on_and_what_others_write_into_it_does_not() -> None:
    old_mask = os.umask(0o002)
    try:
        start(Path("x.yaml"))
    finally:
        os.umask(old_mask)
    config = Path("r/config.yaml")
    assert config.stat().st_mode & 0o777 == 0o664
    start(Path("r"))
    start(Path("r"), "job.time_limit=1:00:00")
    edit(config, "site.sh", "evil.sh")  # the owner stays the same
    config.chmod(0o664)
    with pytest.raises(LaunchError, match=r"others may write to it \(its mode is 664\)"):
        start(Path("r"))


def test_a_file_that_only_the_user_may_write_to_may_be_edited_by_hand() -> None:
    start(Path("x.yaml"))
    config = Path("r/config.yaml")
    config.chmod(0o644)
    edit(config, "site.sh", "evil.sh")
    assert str(start(Path("r")).recipe.job.preamble).endswith("/evil.sh")


def test_anothers_words_do_not_become_the_users_own_by_a_start_that_executes_none_of_them(
    give_to_another: Callable[[Path], None],
) -> None:
    start(Path("x.yaml"))
    config = Path("r/config.yaml")
    edit(config, "site.sh", "evil.sh")
    give_to_another(config)
    before = config.stat()
    write_run_dir(find_run(Path("r"), (), None))  # as a job that Slurm starts again, and each of its ranks
    assert (config.stat().st_ino, config.stat().st_uid) == (before.st_ino, before.st_uid)
    with pytest.raises(LaunchError, match=r"evil\.sh"):
        start(Path("r"))
    fork = find_run(Path("r"), ("optim.lr=1e-5",), None, Path("fork"))
    with pytest.raises(LaunchError, match=r"evil\.sh"):
        settle_trust(fork, ("optim.lr=1e-5",))


def test_a_file_that_is_exchanged_for_the_users_own_after_it_was_read_is_noticed(
    give_to_another: Callable[[Path], None],
) -> None:
    start(Path("x.yaml"))
    config, kept = Path("r/config.yaml"), Path("r/kept.yaml")
    kept.write_text(config.read_text())
    edit(config, "site.sh", "evil.sh")
    give_to_another(config)
    run = find_run(Path("r"), (), None)
    kept.replace(config)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        settle_trust(run, ())


def test_a_link_to_a_file_of_the_user_is_not_the_users_word(give_to_another: Callable[[Path], None]) -> None:
    start(Path("x.yaml"))
    config, downloaded = Path("r/config.yaml"), Path("downloaded.yaml")
    edit(config, "site.sh", "evil.sh")
    config.rename(downloaded)
    config.symlink_to(downloaded.absolute())
    give_to_another(config)
    with pytest.raises(LaunchError, match=r"is a link that user .* has made"):
        start(Path("r"))


@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_record_that_others_may_write_is_not_believed(which: str, give_to_another: Callable[[Path], None]) -> None:
    start(Path("x.yaml"))
    start(Path("x.yaml"))
    record = state_folder() / "accepted" / "lines"
    assert record.stat().st_mode & 0o777 == 0o600 and record.parent.stat().st_mode & 0o777 == 0o700
    assert len(record.read_text().splitlines()) == 2, "each line once"
    Path("r/config.yaml").chmod(0o664)
    start(Path("r"))
    (record if which == "file" else record.parent).chmod(0o777)
    with pytest.raises(LaunchError, match=r"others may write to it"):
        start(Path("r"))


def test_without_a_home_a_run_goes_on_and_only_the_owner_of_the_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("file").absolute()))
    start(Path("x.yaml"))
    Path("r/config.yaml").chmod(0o644)
    start(Path("r"))


@pytest.mark.parametrize("name", ["logs", "logs/rank-0.log", "metrics.jsonl", "checkpoints/.step-3", "export/best"])
def test_anothers_link_out_of_the_run_directory_is_refused_and_ones_own_is_followed(
    name: str, tmp_path: Path, give_to_another: Callable[[Path], None]
) -> None:
    start(Path("x.yaml"))
    outside, link = tmp_path / "outside", Path("r") / name
    outside.mkdir()
    if link.is_dir():
        link.rmdir()
    link.symlink_to(outside)
    start(Path("r"))
    give_to_another(link)
    with pytest.raises(CheckpointError, match=rf"r/{name}: this link leads out of the run directory, to {outside}"):
        start(Path("r"))
    link.unlink()
    link.symlink_to(Path("r/checkpoints").absolute())
    give_to_another(link)
    start(Path("r"), is_trusted=True)
