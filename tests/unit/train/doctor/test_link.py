"""What lies between ranks and what it should give, from what a machine says of itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from steel.distributed.runtime import Runtime
from train.doctor import link as links
from train.doctor.benchmarks import judge_sum
from train.doctor.link import UNKNOWN, Link, find_link, gpu_link, interface_to, network_link, slowest

CARDS = "0, GPU-aaaa, 5, 16\n1, GPU-bbbb, 5, 16\n2, GPU-cccc, 4, 8\n"
TOPOLOGY = (
    "\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
    "GPU0\t X \tNV18\tSYS\tPXB\t0-47\t0\t\tN/A\n"
    "GPU1\tNV18\t X \tSYS\tSYS\t0-47\t0\t\tN/A\n"
    "GPU2\tSYS\tSYS\t X \tSYS\t48-95\t1\t\tN/A\n"
    "NIC0\tPXB\tSYS\tSYS\t X\n\nLegend:\n\n  X    = Self\n"
)
NVLINK = (
    "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)\n"
    "\t Link 0: 26.562 GB/s\n\t Link 1: 26.562 GB/s\n\t Link 2: <inactive>\n"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With three GPUs, two of them joined by NVLink."""
    said = {"--query-gpu=index,uuid,pcie.link.gen.max,pcie.link.width.max": CARDS, "topo": TOPOLOGY, "nvlink": NVLINK}
    monkeypatch.setattr(links, "_ask", lambda *arguments: said[arguments[0]])


def test_gpus_joined_by_nvlink(machine: None) -> None:
    assert gpu_link(["aaaa", "bbbb"]) == Link("NVLink", 53.124)


def test_gpus_joined_by_pcie_go_as_fast_as_the_slowest_slot(machine: None) -> None:
    found = gpu_link(["aaaa", "cccc"])
    assert (found.name, found.gb_per_s) == ("PCIe 4 x8", pytest.approx(15.75, rel=1e-3))


def test_gpus_that_nvidia_smi_does_not_know(machine: None) -> None:
    assert gpu_link(["aaaa", "MIG-1"]) == UNKNOWN


@pytest.mark.parametrize("said", ["", "No devices were found\n", "0, GPU-aaaa, [N/A], [N/A]\n1, GPU-bbbb, [N/A], 16\n"])
def test_without_an_answer_no_speed_is_told(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_ask", lambda *arguments: said)
    assert gpu_link(["aaaa", "bbbb"]).gb_per_s is None


def test_without_nvidia_smi_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert links._ask("topo", "-m") == ""


def make_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("speed", "expected"), [("25000\n", 3.125), ("-1\n", None), ("0\n", None), ("", None), ("unknown", None)]
)
def test_a_network_interface_has_its_speed_or_none(speed: str, expected: float | None, tmp_path: Path) -> None:
    make_file(tmp_path / "net" / "eth7" / "speed", speed)
    environ = {"GLOO_SOCKET_IFNAME": "eth7"}
    assert network_link(environ, on_gpus=False, system=tmp_path) == Link("network interface eth7", expected)


def test_the_interface_of_the_first_machine_is_the_one_in_use(tmp_path: Path) -> None:
    assert interface_to("127.0.0.1") == "lo"
    assert network_link({"MASTER_ADDR": "127.0.0.1"}, on_gpus=False, system=tmp_path).name == "network interface lo"


def test_an_address_that_nobody_knows_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "interface_to", lambda address: "")
    assert network_link({}, on_gpus=False, system=tmp_path) == Link("unknown network interface")


def test_gpus_of_several_machines_talk_over_infiniband_unless_told_otherwise(tmp_path: Path) -> None:
    for number, (state, rate) in enumerate([("4: ACTIVE", "400 Gb/sec (4X NDR)"), ("1: DOWN", "800 Gb/sec (4X XDR)")]):
        make_file(tmp_path / f"infiniband/mlx5_{number}/ports/1/state", state)
        make_file(tmp_path / f"infiniband/mlx5_{number}/ports/1/rate", rate)
    make_file(tmp_path / "net/eth7/speed", "10000")
    environ = {"NCCL_SOCKET_IFNAME": "eth7", "GLOO_SOCKET_IFNAME": "eth7"}
    assert network_link(environ, on_gpus=True, system=tmp_path).gb_per_s == 50
    assert network_link({**environ, "NCCL_IB_DISABLE": "1"}, on_gpus=True, system=tmp_path).gb_per_s == 1.25
    assert network_link(environ, on_gpus=False, system=tmp_path).gb_per_s == 1.25


def test_the_slowest_counts_and_an_unknown_one_may_be_slower_still() -> None:
    fast, slow = Link("a", 50.0), Link("b", 1.25)
    assert slowest([fast, slow]) == slow
    assert slowest([fast, UNKNOWN, slow]) == UNKNOWN


def test_ranks_of_one_machine_without_gpus_share_its_memory() -> None:
    runtime: Any = SimpleNamespace(device=torch.device("cpu"), all_gather=lambda value: [value, value])
    found = find_link(cast(Runtime, runtime))
    assert found.name.startswith("the memory of one machine") and not found.is_bound
    assert found.gb_per_s is not None and found.gb_per_s > 0


@pytest.mark.parametrize(
    ("seconds", "world", "link", "on_gpus", "said"),
    [
        # 100 MiB in 1 ms are 104.9 GB/s, of which 8 ranks move 1.75 times as much each way.
        (0.001, 8, Link("NVLink", 450.0), True, ["104.86 GB/s), 183.50 GB/s each way: 41% of 450 GB/s (NVLink)"]),
        (0.01, 8, Link("NVLink", 450.0), True, ["4% of 450 GB/s (NVLink)", "NCCL_SOCKET_IFNAME"]),
        (0.1, 2, Link("network interface eth0", 1.25), False, ["84% of 1.25 GB/s"]),
        (1.0, 2, Link("network interface eth0", 1.25), False, ["8% of 1.25 GB/s", "GLOO_SOCKET_IFNAME"]),
        (1.0, 2, Link("memory", 10.0, is_bound=False), False, ["1% of 10 GB/s (memory)"]),
        (0.01, 2, UNKNOWN, True, ["unknown link: what it should give cannot be told"]),
        (1.0, 2, UNKNOWN, True, ["unknown link", "NCCL_SOCKET_IFNAME"]),
        (1.0, 2, UNKNOWN, False, ["unknown link"]),
    ],
)
def test_a_sum_is_held_against_its_link(seconds: float, world: int, link: Link, on_gpus: bool, said: list[str]) -> None:
    findings = list(judge_sum(seconds, world, link, on_gpus=on_gpus))
    assert [finding.level for finding in findings] == ["fine", "warning"][: len(said)]
    for finding, expected in zip(findings, said, strict=True):
        assert expected in finding.text
