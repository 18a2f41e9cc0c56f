"""The soft limit of open files is raised to the hard one, and one that is too low is said."""

import resource
from collections.abc import Iterator

import pytest

from shardtune.machine.open_files import raise_open_files


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_becomes_the_hard_one_and_nothing_is_said() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert raise_open_files(2) is None
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 2**20), hard)


def test_a_hard_limit_below_what_the_ranks_need_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    asked = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append((kind, limits)))
    assert raise_open_files(512) is None
    assert asked == [(resource.RLIMIT_NOFILE, (4096, 4096))]
    text = raise_open_files(1024)
    assert text is not None and text.startswith("a process may open at most 4,096 files and connections (ulimit -Hn)")
    assert "one of 1,024 ranks may need 5,120" in text
