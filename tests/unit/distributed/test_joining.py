"""Where gloo listens: at an address that the other machines of the job can reach."""

import os
import socket
from types import SimpleNamespace

import pytest

from steel.distributed import joining

INTERFACES = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.0.0.7"], "ib0": ["192.168.3.7", "fe80::1"]}


class Routes:
    """A socket that knows which of this host's addresses leads where."""

    def __init__(self, *kind: object) -> None:
        self.address = ""

    def __enter__(self) -> "Routes":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def connect(self, place: tuple[str, int]) -> None:
        routes = {"127.0.0.1": "127.0.0.1", "10.0.0.1": "10.0.0.7", "ib-node1": "192.168.3.7"}
        if place[0] not in routes:
            raise socket.gaierror("unknown host")
        self.address = routes[place[0]]

    def getsockname(self) -> tuple[str, int]:
        return self.address, 1


@pytest.mark.parametrize(
    ("first", "own", "said", "chosen"),
    [
        ("10.0.0.1", "127.0.1.1", None, "eth0"),
        ("ib-node1", "127.0.1.1", None, "ib0"),
        ("10.0.0.1", "10.0.0.7", None, None),  # gloo finds it itself
        ("127.0.0.1", "127.0.1.1", None, None),  # all on this machine
        ("10.0.0.1", "127.0.1.1", "ib0", "ib0"),  # the user knows better
        ("no-such-host", "127.0.1.1", None, None),
        (None, "127.0.1.1", None, None),
    ],
)
def test_gloo_listens_where_the_first_machine_is_reached(monkeypatch, first, own, said, chosen):
    for name, value in (("MASTER_ADDR", first), ("GLOO_SOCKET_IFNAME", said)):
        monkeypatch.setenv(name, "")  # so that it is taken back in any case
        monkeypatch.delenv(name)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(joining.socket, "socket", Routes)
    monkeypatch.setattr(joining.socket, "gethostbyname", lambda name: own)
    held = {name: [SimpleNamespace(address=address) for address in found] for name, found in INTERFACES.items()}
    monkeypatch.setattr(joining.psutil, "net_if_addrs", lambda: held)
    joining.meet_in_one_network()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == chosen
