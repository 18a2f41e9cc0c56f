"""The network interface of gloo, which carries what must not wait for a GPU: that of NCCL, if only NCCL has one."""

import fcntl
import socket
import struct
from collections.abc import MutableMapping, Sequence
from pathlib import Path

NCCL, GLOO = "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915
"""Linux's request for the IPv4 address of an interface."""


def give_gloo_the_interface_of_nccl(environment: MutableMapping[str, str]) -> str | None:
    """Sets GLOO_SOCKET_IFNAME if only NCCL_SOCKET_IFNAME is set; returns what to say about it.

    Without it gloo uses the interface that the machine's own name leads to, often a slower one, or one by which other
    machines cannot be reached.
    """
    names = environment.get(NCCL)
    if not names or environment.get(GLOO):
        return None
    there = interfaces_with_address()
    chosen = interface_for_gloo(names, there)
    if chosen is None:
        shown = ", ".join(there) or "none"
        return f"{NCCL}={names} leaves gloo no single interface of those with an address ({shown}); set {GLOO} too"
    environment[GLOO] = chosen
    return f"gloo uses the network interface {chosen}, because {NCCL} is {names}; {GLOO} sets another one"


def interface_for_gloo(names: str, there: Sequence[str]) -> str | None:
    """The interface, of those that are there, that NCCL_SOCKET_IFNAME means; None if it cannot be told.

    NCCL takes prefixes, exact names after `=`, or, after `^`, those that are not to be used; it uses all that match.
    gloo needs one name: the first. Of those that are only not excluded one is right for certain if it is the only one.
    """
    is_excluding = names.startswith("^")
    rest = names.removeprefix("^")
    is_exact = rest.startswith("=")
    words = [word for word in rest.removeprefix("=").split(",") if word]

    def is_named(interface: str) -> bool:
        return any(interface == word if is_exact else interface.startswith(word) for word in words)

    if is_excluding:
        left = [interface for interface in there if interface != "lo" and not is_named(interface)]
        return left[0] if len(left) == 1 else None
    return next((interface for interface in there if is_named(interface)), None)


def interfaces_with_address() -> list[str]:
    """The network interfaces of this machine that have an IPv4 or IPv6 address, in the kernel's order."""
    version_6: set[str] = set()
    if (table := Path("/proc/net/if_inet6")).exists():
        version_6 = {line.split()[-1] for line in table.read_text(encoding="ascii").splitlines()}
    return [name for _, name in socket.if_nameindex() if name in version_6 or _has_ipv4(name)]


def _has_ipv4(name: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return False
    return True
