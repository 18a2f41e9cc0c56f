"""A group counts as a user's own only if nobody else can be in it."""

import grp
import pwd
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from shardtune.users import is_private_group


@pytest.mark.parametrize(
    ("name", "number", "members", "is_private"),
    [
        ("ada", 7, [], True),
        ("ada", 7, ["ada"], True),
        ("ada", 7, ["ada", "eve"], False),
        ("staff", 7, [], False),
        ("ada", 8, [], False),
    ],
)
def test_the_group_of_a_users_name_without_others_is_private(
    name: str, number: int, members: Sequence[str], is_private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="ada", pw_gid=7))
    group = SimpleNamespace(gr_name=name, gr_gid=number, gr_mem=members)
    monkeypatch.setattr(grp, "getgrgid", lambda _: group)
    assert is_private_group(number) is is_private


def test_a_group_without_a_name_is_not_private() -> None:
    assert not is_private_group(2**31 - 7)
