# SPDX-License-Identifier: Apache-2.0
"""What doctor says of a node: by tables of what the host may show, and of what is pinned in a real kernel."""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collector.attach import netlink
from collector.attach.uplinks import Link
from collector.kernel import layout, pins
from collector.kernel.epoch_record import MAX_UPLINKS
from collector.kernel.layout import MOST_UPLINKS
from collector.outbox.spool import directory_for
from collector.window.coverage import WindowCoverage
from common.errors import Refusal
from doctor import host
from doctor.checks import Finding, UnclearError
from doctor.node import check_coverage, check_links, check_map, check_spool, check_window, coverage_finding, map_finding
from tests.collector.outbox.test_spool import opened, put, take
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered

MANY = [Link(10 + number, f"eth{number:02}") for number in range(MAX_UPLINKS + 2)]
PLAIN = [Link(1, "lo"), Link(2, "eth0"), Link(7, "veth1", "veth")]
CILIUM = [*PLAIN, Link(3, "cilium_net", "veth"), Link(4, "cilium_host", "veth")]


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    assert finding.status != "no" or finding.todo, "a fault must say what to do"
    return finding


@pytest.mark.parametrize(
    ("links", "config", "status", "says"),
    [
        pytest.param(PLAIN, None, "ok", "no sign", id="plain"),
        pytest.param([*PLAIN, Link(9, "bpfin.cali", "veth")], None, "??", "Calico", id="calico eBPF"),
        pytest.param([*PLAIN, Link(9, "lxc1", "netkit")], None, "??", "netkit", id="netkit"),
        pytest.param(CILIUM, None, "??", "cannot be told", id="cilium, no config to be read"),
        pytest.param(CILIUM, "#define ENABLE_HOST_ROUTING 1\n", "??", "routes in eBPF", id="cilium eBPF routing"),
        pytest.param(CILIUM, "#define ENABLE_IPV4 1\n", "??", "does not say", id="cilium legacy routing"),
        pytest.param(CILIUM, "// ENABLE_HOST_ROUTING\n", "??", "does not say", id="cilium, only named"),
    ],
)
def test_network_plugins_that_bypass_netfilter(
    links: list[Link], config: str | None, status: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "node_config.h"
    if config is not None:
        file.write_text(config)
    finding = only(host.check_plugin(links, file))
    assert (finding.status, says in finding.found) == (status, True)


@pytest.mark.parametrize(
    ("links", "switch", "status"),
    [
        pytest.param(PLAIN, None, "ok", id="no bridge"),
        pytest.param([*PLAIN, Link(8, "cni0", "bridge")], "1\n", "ok", id="bridge passes netfilter"),
        pytest.param([*PLAIN, Link(8, "cni0", "bridge")], "0\n", "??", id="bridge bypasses it"),
        pytest.param([*PLAIN, Link(8, "cni0", "bridge")], None, "??", id="br_netfilter not loaded"),
    ],
)
def test_bridges(links: list[Link], switch: str | None, status: str, tmp_path: Path) -> None:
    file = tmp_path / "bridge-nf-call-iptables"
    if switch is not None:
        file.write_text(switch)
    assert only(host.check_bridges(links, file)).status == status


@pytest.mark.parametrize(
    ("unsynchronised", "offset_ms", "status"),
    [(False, 0.2, "ok"), (True, 0.0, "??"), (False, 1_200.0, "no"), (False, -700.0, "no")],
)
def test_clock(unsynchronised: bool, offset_ms: float, status: str) -> None:
    assert only(host.clock_finding(unsynchronised, offset_ms)).status == status


def test_the_kernels_own_clock_can_be_asked() -> None:
    assert only(host.check_clock()).check == "clock"


@pytest.mark.parametrize(
    ("chosen", "status", "says"),
    [
        pytest.param([], "no", "none", id="none"),
        pytest.param(MANY[:-2], "ok", "eth63", id="as-many-as-are-watched"),
        pytest.param(MANY, "??", "does not look at eth64, eth65", id="too-many"),
        pytest.param(
            [Link(number, f"tun{number}") for number in range(1, MOST_UPLINKS + 2)],
            *("no", "beyond 8192 would count as sent from here"),
            id="more-than-the-program-knows",
        ),
        pytest.param(
            [*MANY[:-2], Link(99, "zvlan", kind="vlan", lower=10)], "ok", "zvlan", id="one-that-another-counts-too"
        ),
    ],
)
def test_uplinks(chosen: list[Link], status: str, says: str) -> None:
    finding = only(host.uplinks_finding(chosen))
    assert (finding.status, says in finding.found) == (status, True)


def test_this_kernel_takes_netfilter_programs_and_nothing_stays_attached() -> None:
    assert only(host.check_netfilter()).status == "ok"


def test_an_old_kernel_missing_rights_and_no_btf(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"5\.15 or later"):
        host.check_kernel("5.14.0-105-generic", "x86_64")
    with pytest.raises(Refusal, match="CAP_BPF"):
        host.check_capabilities("CapEff:\t0000000000001000\n")
    with pytest.raises(Refusal, match="CAP_BPF for hook netfilter"):
        host.check_capabilities("CapEff:\t0000000000001000\n", loads=False)
    assert only(host.check_btf(tmp_path)).status == "no"


def test_where_another_process_loads_fewer_rights_are_enough(tmp_path: Path) -> None:
    assert only(host.check_capabilities(f"CapEff:\t{1 << 39:016x}\n", loads=False)).status == "ok"
    names = {loads: {check.name for check in host.host_checks(tmp_path, [], loads=loads)} for loads in (True, False)}
    assert names[True] - names[False] == {"netfilter programs"}


def test_pin_directories_that_are_none(tmp_path: Path) -> None:
    assert only(host.check_bpffs(tmp_path)).status == "no"
    assert only(host.check_bpffs(Path("/sys/fs/bpf/zonemeter"))).status == "ok"


@pytest.mark.parametrize(
    ("rows", "lost", "status"),
    [
        pytest.param(10, {"map_full": 0, "map_busy": 0}, "ok", id="room"),
        pytest.param(70, {"map_full": 0, "map_busy": 0}, "??", id="tight"),
        pytest.param(100, {"map_full": 1, "map_busy": 0}, "no", id="full"),
        pytest.param(10, {"map_full": 0, "map_busy": 7}, "no", id="busy"),
    ],
)
def test_map_fill(rows: int, lost: dict[str, int], status: str) -> None:
    assert only(map_finding(rows, 100, lost)).status == status


@pytest.mark.parametrize(
    ("seen", "received", "sent", "got", "status", "says"),
    [
        pytest.param(0, 0, 0, 0, "ok", "too little", id="nothing"),
        pytest.param(0, 0, 999_999, 0, "ok", "too little", id="little"),
        pytest.param(0, 0, 1_000_000, 0, "no", "bypass", id="bypassed"),
        pytest.param(600_000, 0, 1_000_000, 0, "ok", "sent", id="half"),
        pytest.param(9_000_000, 0, 1_000_000, 0, "ok", "sent", id="much stays on the node"),
        pytest.param(9_000_000, 0, 20_000, 10_000, "??", "device that leads out", id="all seems to"),
        pytest.param(3_000_000, 0, 1_000_000, 2_000_000, "no", "inside a bridge", id="comes in under another name"),
        pytest.param(0, 0, 1_000_000, 2_000_000, "no", "bypass", id="nothing is seen at all"),
    ],
)
def test_coverage(seen: int, received: int, sent: int, got: int, status: str, says: str) -> None:
    finding = only(coverage_finding(WindowCoverage(seen, received, sent, got)))
    assert (finding.status, says in finding.found + finding.todo) == (status, True)


def test_a_node_where_nothing_has_run(tmp_path: Path) -> None:
    nowhere = tmp_path / "pins"
    assert only(check_links(nowhere)).status == "??"
    with pytest.raises(UnclearError, match="nothing counts"):
        check_map(nowhere)


def test_a_node_that_counts(meters: dict[int, Metered]) -> None:
    root = metered.pin_dir("node1")
    assert only(check_links(root)).status == "??", "from here the links are in another network namespace"
    with pytest.raises(UnclearError, match="not seen from this one"):
        check_coverage(root, {})

    links = only(netlab.inside("node1", lambda: check_links(root)))
    assert links.status == "ok"
    assert "node node1 of cluster test" in links.found
    counters = netlab.inside("node1", netlink.device_counters)
    assert only(netlab.inside("node1", lambda: check_coverage(root, counters))).status == "ok"

    begun = metered.open_since_ms(meters[1].meter) / 1000
    assert only(check_window(root, begun + 5)).status == "ok"
    assert only(check_window(root, begun + 500)).status == "no"

    filled = only(check_map(root))
    assert filled.status == "ok"
    assert f"of {layout.entries_for(2 << 20):,} flows" in filled.found


def test_a_link_that_is_missing(meters: dict[int, Metered]) -> None:
    root = metered.pin_dir("node2")
    link = root / "link_ipv6_local_in"
    aside = root / "aside"
    link.rename(aside)
    try:
        finding = only(netlab.inside("node2", lambda: check_links(root)))
    finally:
        aside.rename(link)
    assert finding.status == "no"
    assert "link_ipv6_local_in" in finding.found
    assert pins.active_generation(root) is not None


CHECKS = [
    *("kernel", "btf", "capabilities", "netfilter programs", "bpffs", "uplinks", "overlays"),
    *("network plugin", "bridges"),
    *("conntrack", "clock", "links", "window", "map", "spool", "coverage"),
]
LINE = re.compile(r"  (ok|no|\?\?)  (.+?)  +(\S.*)")


def run_doctor(node: str, directory: Path, *more: str) -> tuple[int, str]:
    """Run the command as a person on the node would; nothing may come on stderr."""
    command = [sys.executable, "-m", "cli", "doctor", "--node-only", "--spool-dir", str(directory), *more]
    inside = ["nsenter", f"--net=/run/netns/{netlab.ns(node)}", *command, "--pin-dir", str(metered.pin_dir(node))]
    done = subprocess.run(inside, capture_output=True, text=True, cwd=metered.ROOT)
    assert done.stderr == ""
    return done.returncode, done.stdout


def as_told(text: str) -> list[dict[str, str]]:
    """Return the findings that the table shows; what a line has no room for stands in those after it."""
    told: list[dict[str, str]] = []
    for line in text.splitlines()[2:-1]:
        if found := LINE.fullmatch(line):
            told.append({"status": found[1], "check": found[2], "found": found[3], "todo": ""})
        elif line.lstrip().startswith("-> "):
            told[-1]["todo"] = line.strip().removeprefix("-> ")
        else:
            told[-1]["todo" if told[-1]["todo"] else "found"] += f" {line.strip()}"
    return told


def without_numbers(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    """Leave out what moves from one look to the next: ages, bytes, flows."""
    return [{name: re.sub(r"[-+]?[\d.,]*\d", "#", each[name]) for name in sorted(each)} for each in findings]


def check_both_say_the_same(node: str, directory: Path) -> tuple[int, dict[str, Any]]:
    status, text = run_doctor(node, directory, "-o", "json")
    found = json.loads(text)
    assert list(found) == ["host", "time_ms", "faults", "unclear", "findings"]
    assert found["host"] == platform.node()
    assert abs(found["time_ms"] - metered.now_ms()) < 600_000
    findings = found["findings"]
    assert all(list(each) == ["part", "check", "status", "found", "todo"] for each in findings)
    assert [each["check"] for each in findings] == CHECKS
    assert {each.pop("part") for each in findings} == {"node"}
    statuses = [each["status"] for each in findings]
    assert (statuses.count("no"), statuses.count("??")) == (found["faults"], found["unclear"])
    assert statuses.count("ok") == len(CHECKS) - found["faults"] - found["unclear"]
    assert all(each["todo"] for each in findings if each["status"] == "no")

    status_of_table, table = run_doctor(node, directory)
    assert status_of_table == status
    head, part, *_, last = table.splitlines()
    assert (head.split()[:3], part) == (["zonemeter", "doctor", platform.node()], "node")
    plural = "" if found["faults"] == 1 else "s"
    assert last == f"{found['faults']} fault{plural}, {found['unclear']} that cannot be told from here"
    assert without_numbers(as_told(table)) == without_numbers(findings)
    return status, found


def test_a_sound_node_as_a_table_and_as_json(meters: dict[int, Metered], tmp_path: Path) -> None:
    opened(directory_for(tmp_path, metered.pin_dir("node1")))
    status, found = check_both_say_the_same("node1", tmp_path)
    assert (status, found["faults"]) == (0, 0)
    by_check = {each["check"]: each for each in found["findings"]}
    sound = ("kernel", "btf", "capabilities", "netfilter programs", "bpffs", "uplinks", "links", "window", "map")
    assert {name: by_check[name]["status"] for name in sound} == dict.fromkeys(sound, "ok")
    assert by_check["kernel"]["found"] == f"{platform.release()} {platform.machine()}"
    assert "counts for node node1 of cluster test" in by_check["links"]["found"]


def test_a_broken_node_as_a_table_and_as_json(meters: dict[int, Metered], tmp_path: Path) -> None:
    root = metered.pin_dir("node2")
    spool = opened(directory_for(tmp_path, root))
    put(spool, 1)
    spool.set_aside(take(spool))
    link, aside = root / "link_ipv4_post_routing", root / "aside"
    link.rename(aside)
    try:
        status, found = check_both_say_the_same("node2", tmp_path)
    finally:
        aside.rename(link)
    assert (status, found["faults"]) == (1, 2)
    faults = {each["check"]: each for each in found["findings"] if each["status"] == "no"}
    assert faults["links"]["found"] == "missing: link_ipv4_post_routing"
    assert faults["links"]["todo"] == "restart the collector: it makes what is missing"
    assert faults["spool"]["found"].startswith("1 damaged files in ")


def test_the_spool(tmp_path: Path) -> None:
    nowhere = only(check_spool(tmp_path / "spool", 1 << 30, 0.0))
    assert nowhere.status == "??"
    spool = opened(tmp_path / "spool")
    assert only(check_spool(spool.directory, 1 << 30, 0.0)).found.startswith("empty; ")
    begun = put(spool, 1).path.stat().st_mtime
    put(spool, 2)
    waiting = only(check_spool(spool.directory, 1 << 30, begun + 30))
    assert (waiting.status, "2 windows wait, for 30 s" in waiting.found) == ("??", True)
    assert only(check_spool(spool.directory, 1 << 19, begun)).status == "no", "no room for a large window"
    spool.set_aside(take(spool))
    damaged = only(check_spool(spool.directory, 1 << 30, begun))
    assert (damaged.status, "1 damaged" in damaged.found) == ("no", True)
