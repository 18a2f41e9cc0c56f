"""gloo gets the network interface that NCCL was given, unless it was given one of its own."""

import pytest

from shardtune.trainer.distributed import interfaces as choosing
from shardtune.trainer.distributed.interfaces import (
    GLOO,
    NCCL,
    give_gloo_the_interface_of_nccl,
    interface_for_gloo,
    interfaces_with_address,
)

THERE = ["lo", "eth0", "docker0", "ib0", "ib1"]


@pytest.mark.parametrize(
    ("names", "interface"),
    [
        ("ib0", "ib0"),
        ("ib", "ib0"),
        ("mlx,ib1", "ib1"),
        ("=eth0", "eth0"),
        ("=eth", None),
        ("=ib1,eth0", "eth0"),  # exact names, both; the kernel's order
        ("lo", "lo"),
        ("bond", None),
        ("^docker,ib", "eth0"),
        ("^=docker0,ib0,ib1", "eth0"),
        ("^docker", None),  # eth0, ib0 or ib1
        ("^=ib", None),
    ],
)
def test_the_names_that_nccl_takes_mean_one_interface(names: str, interface: str | None) -> None:
    assert interface_for_gloo(names, THERE) == interface


def test_it_is_set_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "interfaces_with_address", lambda: THERE)
    environment = {NCCL: "ib"}
    note = give_gloo_the_interface_of_nccl(environment)
    assert environment == {NCCL: "ib", GLOO: "ib0"}
    assert note == f"gloo uses the network interface ib0, because {NCCL} is ib; {GLOO} sets another one"


def test_what_cannot_be_told_is_left_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "interfaces_with_address", lambda: THERE)
    environment = {NCCL: "bond0"}
    note = give_gloo_the_interface_of_nccl(environment)
    assert environment == {NCCL: "bond0"}
    assert note is not None and "those with an address (lo, eth0, docker0, ib0, ib1); set GLOO_SOCKET_IFNAME" in note


@pytest.mark.parametrize("environment", [{}, {NCCL: "ib0", GLOO: "eth0"}, {GLOO: "eth0"}, {NCCL: ""}])
def test_the_users_own_setting_stays_and_nothing_is_said(environment: dict[str, str]) -> None:
    before = dict(environment)
    assert give_gloo_the_interface_of_nccl(environment) is None
    assert environment == before


def test_this_machine_has_a_loopback_interface() -> None:
    assert "lo" in interfaces_with_address()
