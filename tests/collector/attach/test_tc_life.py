# SPDX-License-Identifier: Apache-2.0
"""Hook tc over time: restarts, upgrades, a change of hook, devices that come and go, neighbours, and the end."""

import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.attach import clsact, tc, tcx
from collector.errors import LoadError
from collector.host import detach
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.window.meter import Meter
from doctor import node as doctor
from doctor.checks import Finding
from schemas.raw import ENCAPSULATIONS, Hook
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import node_address, pod_address, send_udp, wait_until

A, B = pod_address(1, 1), pod_address(2, 1)
OUTER = (node_address(1), node_address(2))
VXLAN = ENCAPSULATIONS.index("vxlan")
# r0 = TC_ACT_SHOT; exit
_DROP = sys_bpf.INSTRUCTION.pack(0xB7, 0, 0, 2) + sys_bpf.INSTRUCTION.pack(0x95, 0, 0, 0)
Start = Callable[..., Metered]


@pytest.fixture(params=["tcx", "clsact"])
def use_tcx(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "tcx")


@pytest.fixture
def root(nodes: None) -> Iterator[Path]:
    made = metered.pin_dir("tclife")
    yield made
    netlab.inside("node1", lambda: detach.remove_all(made))


@pytest.fixture
def start(root: Path, use_tcx: bool) -> Iterator[Start]:
    """A collector on the first node; closed at the end, as if killed."""
    lives: list[Metered] = []

    def begin(hook: Hook = "tc", **changes: object) -> Metered:
        if lives:
            lives[-1].meter.close()
        lives.append(Metered("node1", metered.request(root, hook=hook, **changes), use_tcx=use_tcx))
        return lives[-1]

    yield begin
    for life in lives:
        life.meter.close()


def dispatcher_filters(device: str = "eth0") -> int:
    """How many filters named as ours the device has, both ways together."""
    listed = [netlab.run("node1", "tc", "filter", "show", "dev", device, way) for way in ("ingress", "egress")]
    return sum(text.count("zonemeter:") for text in listed)


def qdiscs(device: str = "eth0") -> list[str]:
    return [each["kind"] for each in json.loads(netlab.run("node1", "tc", "-j", "qdisc", "show", "dev", device))]


def links(root: Path) -> set[str]:
    return {path.name for path in root.glob("link_*")}


def ifindex(device: str) -> int:
    return int(json.loads(netlab.run("node1", "ip", "-j", "link", "show", device))[0]["ifindex"])


def total(life: Metered) -> int:
    return life.sum(src=A, dst=B, protocol=17, direction="egress")[1]


def test_it_counts_on_while_nobody_is_there_and_is_attached_once(start: Start, root: Path, use_tcx: bool) -> None:
    first = start()
    generation = first.meter.current
    assert generation is not None
    number, attached = generation.meta.generation, links(root)
    first.meter.close()
    send_udp("pod11", "pod21", B, count=5)
    again = start()
    assert again.meter.current is not None
    assert again.meter.current.meta.generation == number
    assert (links(root), dispatcher_filters()) == (attached, 0 if use_tcx else 2)
    assert len(attached) == (2 if use_tcx else 0)
    send_udp("pod11", "pod21", B, count=4)
    assert total(again) == 9


def test_an_upgrade_leaves_what_is_attached_and_doubles_nothing(start: Start, root: Path, use_tcx: bool) -> None:
    old = start()
    send_udp("pod11", "pod21", B, count=3)
    with pins.closing_fd(sys_bpf.obj_get(str(root / "dispatcher_tc"))) as dispatcher:
        before = sys_bpf.prog_id(dispatcher)
    new = start(service_ports=[50052])
    send_udp("pod11", "pod21", B, count=4)
    with pins.closing_fd(sys_bpf.obj_get(str(root / "dispatcher_tc"))) as dispatcher:
        assert sys_bpf.prog_id(dispatcher) == before
    assert dispatcher_filters() == (0 if use_tcx else 2)
    packets = take_unfinished(new)
    assert old.flows == {}
    assert (packets, total(new)) == (3, 4)
    assert len(pins.generations(root)) == 1


def test_the_hook_can_be_changed_and_changed_back(start: Start, root: Path) -> None:
    sent = 0
    for hook in ("netfilter", "tc", "netfilter"):
        life = start(hook)
        list(map(life.meter.finish, life.meter.unfinished()))
        send_udp("pod11", "pod21", B, count=3)
        sent += 3
        assert total(life) == 3, "by one hook, not by two and not by none"
        assert life.meter.current is not None
        assert life.meter.current.meta.hook == hook
        assert (root / pins.DISPATCH["tc"]).exists() == (hook == "tc")
        assert (root / pins.DISPATCH["netfilter"]).exists() == (hook == "netfilter")
        assert len(pins.generations(root)) == 1
    assert (dispatcher_filters(), "clsact" in qdiscs(), (root / "clsact").exists()) == (0, False, False)
    assert links(root) == doctor.LINKS


class Killed(BaseException):
    """What SIGKILL is: nothing runs after it."""


class Change:
    """A change of hook that dies before its n-th step; counts what was sent and what came out."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.left: int | None = None
        self.seen = self.sent = 0
        call, unlink = sys_bpf._call, Path.unlink
        changing = (sys_bpf.BpfCommand.MAP_UPDATE_ELEM, sys_bpf.BpfCommand.MAP_DELETE_ELEM, sys_bpf.BpfCommand.OBJ_PIN)

        def guarded_call(command: sys_bpf.BpfCommand, buffer: Any) -> int:
            if command in changing:
                self.step()
            return call(command, buffer)

        def guarded_unlink(path: Path, missing_ok: bool = False) -> None:
            self.step()
            unlink(path, missing_ok)

        monkeypatch.setattr(sys_bpf, "_call", guarded_call)
        monkeypatch.setattr(Path, "unlink", guarded_unlink)

    def step(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1

    def live(self, hook: Hook) -> None:
        """Start, publish what is left, count two packets."""
        life = Metered("node1", metered.request(self.root, hook=hook), use_tcx=True)
        self.seen += take_unfinished(life)
        send_udp("pod11", "pod21", B, count=2)
        self.sent += 2
        self.seen += total(life)
        life.meter.close()

    def survives(self, hook: Hook, steps: int) -> bool:
        """Start at another hook for so many steps; tell whether that was all of them."""
        wanted = metered.request(self.root, hook=hook)
        answer, found = metered.load("node1", wanted), metered.devices("node1")
        meter = Meter(self.root, dict, metered.now_ms, use_tcx=True)
        self.left = steps
        try:
            netlab.inside("node1", lambda: meter.start(answer, found))
        except Killed:
            return False
        finally:
            self.left = None
            meter.close()
        return True


def take_unfinished(life: Metered) -> int:
    """Finish what an earlier life left, and return how many of our packets were in it."""
    packets = 0
    for window in life.meter.unfinished():
        found = metered.flows_of(window.rows())
        packets += sum(n for flow, (_, n) in found.items() if (flow.src, flow.dst, flow.direction) == (A, B, "egress"))
        life.meter.finish(window)
    return packets


def test_killed_before_a_step_of_a_change_of_hook(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every window comes out once, and after the next start each packet is counted by exactly one hook."""
    change = Change(root, monkeypatch)
    change.live("netfilter")
    hooks: tuple[Hook, ...] = ("tc", "netfilter")
    for number, steps in enumerate(itertools.count(0, 3)):
        finished = change.survives(hooks[number % 2], steps)
        change.live(hooks[number % 2])
        assert change.seen == change.sent, steps
        if finished:
            break
    assert steps > 8


@pytest.fixture
def overlay(start: Start) -> Iterator[Metered]:
    """A VXLAN on the first node that appears while it counts; the other end answers."""
    life = start()
    life.collect()
    netlab.count_on_fabric([OUTER])
    for node, other in ((1, 2), (2, 1)):
        netlab.ip(
            f"node{node}",
            f"""
            link add vx0 type vxlan id 7 dstport 8472 local {node_address(node)} remote {node_address(other)} dev eth0
            addr add 10.99.0.{node}/24 dev vx0
            """,
        )
    life.follow()
    for node in (1, 2):
        netlab.ip(f"node{node}", "link set vx0 up")
    yield life
    netlab.ip("node2", "link del vx0")


def test_an_overlays_device_comes_is_counted_and_goes(
    overlay: Metered, start: Start, root: Path, use_tcx: bool
) -> None:
    """Inner packets at its own device, outer ones marked at the uplink; nothing stays of a device that is gone."""
    index = ifindex("vx0")
    assert tcx_or_filters(root) == {ifindex("eth0"), index}
    assert netlab.inside("node1", lambda: tc.missing(root, [index])) == []
    send_udp("node1", "node2", "10.99.0.2", count=5)
    assert overlay.sum(src="10.99.0.1", dst="10.99.0.2", direction="egress", encapsulation=0) == (5 * 1028, 5)

    def marked() -> tuple[int, int]:
        return overlay.sum(src=OUTER[0], dst=OUTER[1], encapsulation=VXLAN, direction="egress", dst_port=8472)

    # With ARP and neighbour discovery of the inner network.
    assert wait_until(lambda: marked() == netlab.fabric_counts([OUTER])[OUTER])
    assert marked()[1] > 5
    assert overlay.sum(src=OUTER[0], dst=OUTER[1], encapsulation=0) == (0, 0)
    netlab.ip("node1", "link del vx0")
    overlay.follow()
    assert tcx_or_filters(root) == {ifindex("eth0")}
    assert len(links(root)) == (2 if use_tcx else 0)


def tcx_or_filters(root: Path) -> set[int]:
    return tcx.attached(root) | clsact.attached(root)


@pytest.fixture
def drop(nodes: None) -> Iterator[Path]:
    """Where somebody else's program is pinned, which drops what it gets; eth0 has no clsact qdisc afterwards.

    The next hop's address is made known for good, since the kernel's own questions for it are dropped too.
    """
    (link,) = json.loads(netlab.run("node2", "ip", "-j", "link", "show", "eth0"))
    neighbour = f"neigh replace {node_address(2)} lladdr {link['address']} dev eth0"
    netlab.ip("node1", f"{neighbour} nud permanent")
    program = sys_bpf.prog_load(sys_bpf.PROG_TYPE_SCHED_CLS, 0, _DROP, "zmt_drop")
    pin = metered.pin_dir("drop")
    sys_bpf.obj_pin(program, str(pin))
    os.close(program)
    try:
        yield pin
    finally:
        pin.unlink()
        if "clsact" in qdiscs():
            netlab.run("node1", "tc", "qdisc", "del", "dev", "eth0", "clsact")
        netlab.ip("node1", f"{neighbour} nud stale")


def add_foreign(pin: Path, way: str) -> None:
    """As Cilium does it: preference 1, all protocols."""
    where = ("dev", "eth0", way, "pref", "1", "protocol", "all")
    netlab.run("node1", "tc", "filter", "add", *where, "bpf", "da", "object-pinned", str(pin))


def test_what_else_is_attached_still_runs_and_a_foreign_qdisc_stays(start: Start, root: Path, drop: Path) -> None:
    """A filter that was there before drops what leaves: it is counted, it is dropped, and it is there in the end."""
    netlab.run("node1", "tc", "qdisc", "add", "dev", "eth0", "clsact")
    add_foreign(drop, "egress")
    life = start()
    netlab.count_on_fabric([(A, B)])
    with netlab.new_socket("pod11", B, socket.SOCK_DGRAM) as client:
        for _ in range(3):
            client.sendto(b"x" * 1000, (B, 5353))
    assert wait_until(lambda: total(life) == 3), (life.flows, netlab.run("node1", "ip", "neigh"))
    assert netlab.fabric_counts([(A, B)])[A, B] == (0, 0)
    life.detach()
    assert "zmt_drop" in netlab.run("node1", "tc", "filter", "show", "dev", "eth0", "egress")
    assert "clsact" in qdiscs()


def test_what_was_attached_later_is_behind_it_after_the_next_start(start: Start, use_tcx: bool, drop: Path) -> None:
    start()
    netlab.run("node1", "tc", "qdisc", "replace", "dev", "eth0", "clsact")
    add_foreign(drop, "egress")
    life = start()
    life.forget()
    with netlab.new_socket("pod11", B, socket.SOCK_DGRAM) as client:
        for _ in range(3):
            client.sendto(b"x" * 1000, (B, 5353))
    assert wait_until(lambda: total(life) == 3)
    assert dispatcher_filters() == (0 if use_tcx else 2)


@pytest.mark.parametrize("use_tcx", [False], ids=["clsact"])
def test_our_qdisc_stays_while_others_use_it(start: Start, use_tcx: bool, drop: Path) -> None:
    life = start()
    add_foreign(drop, "ingress")
    life.detach()
    assert (dispatcher_filters(), "clsact" in qdiscs()) == (0, True)


def test_a_device_that_cannot_be_attached_to_is_said_and_the_others_are_counted(
    start: Start, root: Path, use_tcx: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An `ingress` qdisc leaves no room for clsact; TCX needs none."""
    netlab.run("node1", "tc", "qdisc", "add", "dev", "eth0", "ingress")
    try:
        start()
        said = [record.message for record in caplog.records if "tc cannot be attached" in record.message]
        assert len(said) == (0 if use_tcx else 1)
        finding = links_finding(root)
        assert finding.status == ("ok" if use_tcx else "no")
        assert ("tc on eth0" in finding.found) != use_tcx
    finally:
        netlab.run("node1", "tc", "qdisc", "del", "dev", "eth0", "ingress")


def links_finding(root: Path) -> Finding:
    (finding,) = netlab.inside("node1", lambda: doctor.check_links(root))
    return finding


def test_doctor_knows_it(start: Start, root: Path, use_tcx: bool) -> None:
    start()
    finding = links_finding(root)
    assert finding.status == "ok"
    assert finding.found.startswith(f"hook tc by {'TCX' if use_tcx else 'clsact'} on eth0; generation ")
    netlab.inside("node1", lambda: tc.detach(root))
    finding = links_finding(root)
    assert (finding.status, "missing: tc on eth0" in finding.found) == ("no", True)


def test_detach_leaves_nothing(start: Start, root: Path, use_tcx: bool, tmp_path: Path) -> None:
    start().meter.close()
    assert (dispatcher_filters(), "clsact" in qdiscs()) == ((0, False) if use_tcx else (2, True))
    arguments = ["--pin-dir", str(root)]
    if not use_tcx:
        with pytest.raises(LoadError, match="in another network namespace; detach must run in it"):
            detach.remove_all(root)
        with pytest.raises(SystemExit, match="2"):
            detach.main(arguments)
    assert netlab.inside("node1", lambda: detach.main(arguments)) == 0
    assert (dispatcher_filters(), "clsact" in qdiscs(), root.exists()) == (0, False, False)
