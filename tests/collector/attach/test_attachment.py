# SPDX-License-Identifier: Apache-2.0
"""Whoever removes pins ends nothing; what is detached is found out within a window, and the books say so."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.books import Reconciler, conclude
from audit.boots import DETACHED
from audit.result import Audit
from collector.attach import attachment, tcx
from collector.host.detach import remove_all
from collector.kernel import pin_owner, pins
from collector.kernel.load_request import Answer
from collector.window.encode import ledger_record
from collector.window.meter import Meter, Window
from doctor import node as doctor
from schemas.ledger import decode_ledger, encode_ledger
from schemas.raw import Hook
from tests.support.collector import metered, netlab
from tests.support.collector.metered import flows_of
from tests.support.collector.netlab import pod_address, send_udp
from tests.support.services import eventually

B = pod_address(2, 1)


class Node:
    """A collector's meter on the first node, which closes windows where the collector would: in its namespace."""

    def __init__(self, hook: Hook, *, use_tcx: bool | None) -> None:
        self.root = metered.pin_dir("attachment")
        self.hook = hook
        self.use_tcx = use_tcx
        self.entries: list[bytes] = []
        self.packets: list[int] = []
        self.missing: list[tuple[int, tuple[str, ...]]] = []
        self.start()

    def start(self, **changes: object) -> Answer:
        answer = metered.load("node1", metered.request(self.root, hook=self.hook, **changes))
        self.meter = Meter(self.root, dict, metered.now_ms, use_tcx=self.use_tcx)
        found = metered.devices("node1")
        netlab.inside("node1", lambda: self.meter.start(answer, found))
        for window in self.meter.unfinished():
            self.take(window)
        return answer

    def close_window(self) -> None:
        self.take(netlab.inside("node1", lambda: self.meter.flip(metered.now_ms())))
        found = self.meter.take_missing()
        assert found.wrong == ""
        self.missing.append((len(found.pins), found.detached))

    def take(self, window: Window) -> None:
        rows = window.rows()
        self.entries.append(encode_ledger(ledger_record(window.meta, window.record, rows, 0)))
        found = flows_of(rows).items()
        self.packets.append(sum(n for flow, (_, n) in found if (flow.dst, flow.direction) == (B, "egress")))
        self.meter.finish(window)

    def send(self, count: int) -> None:
        send_udp("pod11", "pod21", B, count=count, size=100)

    def gaps(self) -> list[str]:
        """What the audit says of time that nobody metered."""
        audit = Audit()
        books = Reconciler(lambda origin, start_ms: audit, lambda origin, start_ms: True)
        for entry in self.entries:
            books.take(decode_ledger(entry))
        conclude(books, audit, metered.now_ms(), None)
        return [gap.why for gap in audit.gaps]


@pytest.fixture(params=["netfilter", "tcx", "clsact"])
def node(nodes: None, request: pytest.FixtureRequest) -> Iterator[Node]:
    hook: Hook = "netfilter" if request.param == "netfilter" else "tc"
    made = Node(hook, use_tcx=request.param != "clsact")
    try:
        yield made
    finally:
        made.meter.close()
        netlab.inside("node1", lambda: remove_all(made.root))


def every_pin(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if not path.is_dir())


def test_all_pins_removed_under_way_are_back_and_not_a_packet_was_missed(node: Node) -> None:
    before = every_pin(node.root)
    node.send(3)
    shutil.rmtree(node.root)
    node.send(4)
    node.close_window()
    node.send(5)
    node.close_window()
    assert (node.packets, node.missing) == ([7, 5], [(len(before), ()), (0, ())])
    assert (every_pin(node.root), node.root.stat().st_mode & 0o777) == (before, 0o700)
    assert node.gaps() == []
    (finding,) = netlab.inside("node1", lambda: doctor.check_links(node.root))
    assert finding.status == "ok"


@pytest.mark.parametrize("node", ["tcx"], indirect=True)
def test_each_pin_alone(node: Node) -> None:
    for path in every_pin(node.root):
        path.unlink()
        node.send(1)
        node.close_window()
        assert (node.packets[-1], node.missing[-1]) == (1, (1, ())), path


@pytest.mark.parametrize("node", ["tcx"], indirect=True)
def test_with_too_few_open_files_links_are_not_held_and_still_attached_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All pins but the device's two links, and there is room for one of those."""
    pinned = len(every_pin(node.root))
    assert node.meter._attachment is not None
    leave_room(monkeypatch, pinned - 1)
    node.meter._attachment.hold()
    node.meter._attachment.hold()
    (line,) = caplog.messages
    assert line.startswith(f"1 pins are not held open: RLIMIT_NOFILE leaves room for {pinned - 1}; ")
    shutil.rmtree(node.root)
    node.close_window()
    assert [(number, len(names)) for number, names in node.missing] == [(pinned - 1, 1)]
    eventually(lambda: nothing_was_missing(node))  # the kernel takes a link away a moment after its last pin
    node.send(5)
    node.close_window()
    assert node.packets[-1] == 5


@pytest.mark.parametrize("node", ["tcx"], indirect=True)
def test_with_hardly_any_open_files_nothing_is_held_and_all_is_counted(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert node.meter._attachment is not None
    leave_room(monkeypatch, -1)
    node.meter._attachment.hold()
    assert f"{len(every_pin(node.root))} pins are not held open: RLIMIT_NOFILE leaves room for 0; " in caplog.text
    node.send(3)
    node.close_window()
    assert (node.packets, node.missing) == ([3], [(0, ())])


def nothing_was_missing(node: Node) -> bool:
    node.close_window()
    return node.missing[-1] == (0, ())


def leave_room(monkeypatch: pytest.MonkeyPatch, pins: int) -> None:
    """Let the limit of open files leave room for so many pins. The limit stays: who knows what pytest has open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(attachment, "OTHER_DESCRIPTORS", limit - pins)


def detach_everything(node: Node) -> int:
    """As root can: links by force, filters by tc; return how many things that was."""
    if node.hook == "netfilter":
        paths = sorted(node.root.glob("link_*"))
        for path in paths:
            subprocess.run(["bpftool", "link", "detach", "pinned", path], check=True)
        return len(paths)
    if tcx.attached(node.root):
        for path in node.root.glob("link_tcx_*"):
            subprocess.run(["bpftool", "link", "detach", "pinned", path], check=True)
    else:
        netlab.run("node1", "tc", "qdisc", "del", "dev", "eth0", "clsact")
    return 1


def test_what_was_detached_is_attached_again_and_its_window_is_unmeasured(node: Node) -> None:
    node.send(3)
    many = detach_everything(node)
    node.send(4)
    node.close_window()
    node.send(5)
    node.close_window()
    assert node.packets == [3, 5]
    assert [(number, len(names)) for number, names in node.missing] == [(0, many), (0, 0)]
    assert node.gaps() == [DETACHED]


@pytest.mark.parametrize("node", ["netfilter"], indirect=True)
def test_a_program_taken_out_of_its_slot_is_put_back(node: Node) -> None:
    pins.deactivate(node.root, node.hook)
    node.send(4)
    node.close_window()
    node.send(5)
    node.close_window()
    assert (node.packets, node.missing[0]) == ([0, 5], (0, ("program",)))
    assert node.gaps() == [DETACHED]


def test_links_removed_while_no_collector_was_there_are_said(node: Node) -> None:
    node.send(3)
    node.meter.close()
    if node.hook == "netfilter" or tcx.attached(node.root):
        for path in node.root.glob("link_*"):
            path.unlink()
    else:
        netlab.run("node1", "tc", "qdisc", "del", "dev", "eth0", "clsact")
    node.send(4)
    node.start()
    assert node.meter.take_missing().detached
    node.send(5)
    node.close_window()
    assert 8 <= node.packets[0] <= 12  # the kernel lets go of a link a moment after its last pin
    assert node.gaps() == [DETACHED]


@pytest.mark.parametrize("node", ["netfilter"], indirect=True)
def test_any_pin_removed_while_no_collector_was_there(node: Node) -> None:
    """It counts again after the next start, whichever it was; what was lost with it is a hole in the books."""
    for name in ("dispatch", "dispatcher", "barrier", "gen/meta", "gen/flows0"):
        assert node.meter.current is not None
        node.close_window()
        generation = pins.generation_dir(node.root, node.meter.current.meta.generation)
        node.meter.close()
        entries = len(node.entries)
        (generation / name[4:] if name.startswith("gen/") else node.root / name).unlink()
        node.start()
        node.send(2)
        node.close_window()
        assert node.packets[-1] == 2, name
        assert all(decode_ledger(entry).end_ms for entry in node.entries[entries:]), name
        assert len(pins.generations(node.root)) == 1, name


@pytest.mark.parametrize("node", ["netfilter"], indirect=True)
def test_a_directory_that_is_another_users_meanwhile_is_not_written_to(node: Node) -> None:
    """Nothing is lost: the collector holds what it counts with, and says that it is not as it should be."""
    shutil.rmtree(node.root)
    node.root.mkdir(mode=0o700)
    os.chown(node.root, 65534, 65534)
    node.send(4)
    node.take(netlab.inside("node1", lambda: node.meter.flip(metered.now_ms())))
    assert (node.packets, list(node.root.iterdir())) == ([4], [])
    assert "cannot be put back" in node.meter.take_missing().wrong
    node.root.rmdir()
    pin_owner.make(node.root)
    node.send(5)
    node.close_window()
    assert node.packets == [4, 5]
