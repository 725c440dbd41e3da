# SPDX-License-Identifier: Apache-2.0
"""Bad input at the start: one line that says what, where and what to do."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from collector.errors import LoadError
from collector.host import detach, preflight
from collector.kernel import layout, load_request, loader, pins
from collector.settings import CollectorSettings, parse_ports
from collector.window import schedule
from common.errors import Refusal
from common.settings import load
from schemas.raw import Hook
from tests.support.collector import metered, netlab

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["--window-seconds", "7"], "window_seconds (--window-seconds, ZONEMETER_WINDOW_SECONDS) = '7'", id="7"
        ),
        pytest.param(["--map-memory", "lots"], "map_memory", id="map-memory"),
        pytest.param(["--cluster-cidrs", "10.0.0.1/8"], "cluster_cidrs", id="cluster-cidrs"),
        pytest.param(["--external-addresses", "some"], "external_addresses", id="external-addresses"),
        pytest.param(["--deadman", "soon"], "'soon' is not a duration", id="deadman"),
        pytest.param(["--deadman", "20s"], "expected 5m or more", id="deadman-too-short"),
        pytest.param(["--map-memory", "1KiB"], "greater than or equal to 4096", id="map-memory-too-small"),
        pytest.param(
            ["--service-ports", "80,x"], "'x' is not a port; expected, for example, 50051,40000-40100", id="ports"
        ),
        pytest.param(["--tunnel-ports", "1-65535"], "expected 512 ports at most", id="tunnel-ports"),
        pytest.param(["--service-ports", "70000"], "'70000' is not within 1 to 65535", id="port-range"),
        pytest.param(["--pin-dir", "/sys/fs/bpf/a.b"], 'expected an absolute path without "."', id="pin-dir"),
        pytest.param(["--node", "a/b"], 'must not contain "/"', id="node"),
        pytest.param(["--ports", "some"], "'service' or 'full'", id="ports-mode"),
    ],
)
def test_settings_that_make_no_sense(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load(CollectorSettings, "run collector", arguments)
    assert exit_.value.code == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


def test_settings_that_do() -> None:
    settings = load(
        CollectorSettings, "run collector", ["--map-memory", "64MiB", "--service-ports", "50051,40000-40002"]
    )
    assert layout.entries_for(settings.map_memory) == 262_144
    assert parse_ports(settings.service_ports) == {50051, 40000, 40001, 40002}
    assert settings.window_seconds == 10


@pytest.mark.parametrize(
    ("release", "machine", "said"),
    [
        pytest.param("5.14.21-generic", "x86_64", "kernel 5.14.21-generic: expected Linux 5.15", id="too-old"),
        pytest.param("4.18.0", "x86_64", "5.15 or later", id="much-too-old"),
        pytest.param("6.8.0", "riscv64", "machine riscv64: expected one of x86_64, aarch64", id="machine"),
    ],
)
def test_kernels_that_cannot(release: str, machine: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        preflight.check_kernel(release, machine)


@pytest.mark.parametrize(
    "release", ["5.14.0-427.13.1.el9_4.aarch64", "5.15.0", "6.4.0", "6.18.44-fc-v509", "7.0-rc1", "10.1"]
)
def test_kernels_that_can(release: str) -> None:
    preflight.check_kernel(release, "aarch64")


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        pytest.param(0, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON", id="none"),
        pytest.param(1 << 12 | 1 << 39, "missing CAP_PERFMON", id="no-perfmon"),
        pytest.param(1 << 21, "missing CAP_NET_ADMIN", id="sys-admin-alone"),
    ],
)
def test_missing_capabilities(effective: int, missing: str) -> None:
    with pytest.raises(Refusal, match=missing):
        preflight.check_capabilities(f"Name:\tx\nCapEff:\t{effective:016x}\n")


def test_enough_capabilities() -> None:
    preflight.check_capabilities(f"CapEff:\t{1 << 12 | 1 << 38 | 1 << 39:016x}\n")
    preflight.check_capabilities(f"CapEff:\t{1 << 12 | 1 << 21:016x}\n")


def test_a_kernel_without_btf(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="a kernel with BTF is needed"):
        preflight.check_host(tmp_path / "vmlinux")


MODULES = """
import json, sys
import collector.main
from collector.attach import netlink
assert netlink.read()[0]
found = sorted(sys.modules)
from collector.attach import rtnetlink
rtnl = sorted(sys.modules)
from pyroute2 import NDB, IPRoute
assert IPRoute is rtnetlink.IPRoute and NDB.__module__.startswith("pyroute2.ndb")
print(json.dumps([found, rtnl]))
"""


def test_a_long_life_is_not_spent_with_what_is_not_needed() -> None:
    """Each of these is megabytes of resident memory on every node; and who wants all of pyroute2 still gets it."""
    done = subprocess.run([sys.executable, "-c", MODULES], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded, with_filters = map(set, json.loads(done.stdout))
    assert "pyroute2.netlink.rtnl" in with_filters - loaded
    assert "pyroute2.ndb" not in with_filters
    assert not loaded & {"bcc", "pyroute2", "kubernetes_asyncio", "pyarrow", "duckdb", "rich", "enricher", "lab"}


CHECK = """
import sys
from pathlib import Path
from collector.host.preflight import check_bpffs
check_bpffs(Path(sys.argv[1]))
"""
HIDE = "mount -t tmpfs none /sys/fs && mkdir /sys/fs/bpf && "


@pytest.mark.parametrize(
    ("before", "prefix", "pin_dir", "status", "said"),
    [
        pytest.param("", [], "/sys/fs/bpf/x", 0, "", id="there"),
        pytest.param(HIDE, [], "/sys/fs/bpf/x", 0, "", id="mounted-by-us"),
        pytest.param(
            HIDE,
            ["setpriv", "--bounding-set=-sys_admin"],
            "/sys/fs/bpf/x",
            1,
            "mount -t bpf bpf /sys/fs/bpf",
            id="no",
        ),
        pytest.param("", [], "/sys/fs/bpf", 1, "not on a bpffs; expected a directory under one", id="bpffs-itself"),
        pytest.param("", [], "/tmp/x", 1, "pin_dir = '/tmp/x': not on a bpffs", id="elsewhere"),
        pytest.param("", [], "/sys/fs/cgroup/x", 1, "not on a bpffs", id="another-file-system"),
    ],
)
def test_pin_directories(before: str, prefix: list[str], pin_dir: str, status: int, said: str) -> None:
    """In a mount namespace of its own: nothing here may mount anything on this machine."""
    shell = ["unshare", "--mount", "sh", "-c", before + 'exec "$@"', "sh"]
    done = subprocess.run(
        [*shell, *prefix, sys.executable, "-c", CHECK, pin_dir], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr


def test_boot_id(tmp_path: Path) -> None:
    path = tmp_path / "boot_id"
    with pytest.raises(Refusal, match="No such file"):
        preflight.read_boot_id(path)
    path.write_text("not one\n")
    with pytest.raises(Refusal, match="expected at least 12 hex digits"):
        preflight.read_boot_id(path)
    path.write_text("5BE6c2f0-a91d-4c6e-8f8e-000000000000\n")
    assert preflight.read_boot_id(path) == "5be6c2f0a91d"


def test_links_of_another_network_namespace(nodes: None) -> None:
    wanted = metered.request(metered.pin_dir("namespace"))
    try:
        metered.load("node1", wanted)
        with pytest.raises(LoadError, match="its links count in another network namespace"):
            loader.load(wanted)
    finally:
        pins.detach(Path(wanted.pin_dir))


def test_a_kernel_that_refuses_the_maps(nodes: None) -> None:
    wanted = metered.request(metered.pin_dir("refused"))
    broken = metered.request(metered.pin_dir("refused"), map_memory=2**40)
    try:
        with pytest.raises(LoadError, match="bcc cannot compile"):
            netlab.inside("pod22", lambda: asyncio.run(load_request.load(broken)))
        # What was half made does not stand in the way.
        assert not netlab.inside("pod22", lambda: asyncio.run(load_request.load(wanted))).active
        assert len(pins.generations(Path(wanted.pin_dir))) == 1
    finally:
        pins.detach(Path(wanted.pin_dir))


@pytest.mark.parametrize("at", ["netfilter", "tc"])
def test_three_capabilities_are_enough(nodes: None, at: Hook) -> None:
    """Neither bcc's ways nor a later upgrade may need CAP_SYS_ADMIN, CAP_SYSLOG or CAP_DAC_OVERRIDE."""
    few = ("setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all", *metered.LOADER)
    root = metered.pin_dir("capabilities")
    try:
        first = metered.loaded("node1", metered.request(root, hook=at), *few)[0]
        pins.activate(root, first.generation, at)
        second = metered.loaded("node1", metered.request(root, hook=at, service_ports=[40000]), *few)[0]
        assert (first.active, second.active) == (False, False)
        assert second.generation > first.generation
        assert metered.loaded("node1", metered.request(root, hook=at), *few)[0].active
    finally:
        pins.detach(root)


@pytest.mark.parametrize(
    ("now_ms", "boundary_ms"),
    [
        pytest.param(0, 10_000, id="on-it"),
        pytest.param(9_999, 10_000, id="before"),
        pytest.param(12_000, 20_000, id="in"),
    ],
)
def test_boundaries(now_ms: int, boundary_ms: int) -> None:
    assert schedule.next_boundary(now_ms, 10_000) == boundary_ms


@pytest.mark.parametrize(
    ("now_ms", "on_time"),
    [
        pytest.param(10_000, True, id="exactly"),
        pytest.param(10_004, True, id="just-after"),
        pytest.param(9_999, False, id="woken-early"),
        pytest.param(15_000, False, id="stopped-meanwhile"),
        pytest.param(-3_600_000, False, id="clock-went-back"),
    ],
)
def test_on_time(now_ms: int, on_time: bool) -> None:
    assert schedule.is_on_time(10_000, now_ms) is on_time


def test_detach_says_what_it_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert detach.main(["--pin-dir", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'none'}: nothing of zonemeter was there\n"
