# SPDX-License-Identifier: Apache-2.0
"""The collector's own parts, without Kafka and without the loop, on one node of `netlab`."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from collector.attach import netlink
from collector.host.detach import remove_all
from collector.kernel.layout import Rows, dnat_of, server_of
from collector.kernel.load_request import Answer, Request
from collector.window import devices as devices_
from collector.window.encode import address_text, window_ledger
from collector.window.meter import Devices, Meter
from schemas.raw import DIRECTIONS, SERVERS, WindowLedger
from tests.support.builders import total
from tests.support.collector import loader_once, netlab

ROOT = Path(__file__).resolve().parents[3]
LOADER = (sys.executable, "-m", "collector.kernel.loader")
# Where compiled programs are kept for all processes of a test run; the fixtures say where.
compiled = Path()


class Flow(NamedTuple):
    src: str
    dst: str
    src_port: int
    dst_port: int
    protocol: int
    direction: str
    dnat: int
    encapsulation: int
    server: str = "unknown"


# Of a fixture: with the program of newer kernels, and with that of older ones, which reads by a helper.
BOTH_PROGRAMS = (True, False)
PROGRAM_NAMES = ("direct-loads", "by-helper")


def pin_dir(name: str) -> Path:
    return Path("/sys/fs/bpf") / f"{netlab.PREFIX}-{name}"


def request(root: Path, **overrides: Any) -> Request:
    fields: dict[str, Any] = {
        "pin_dir": str(root),
        "cluster": "test",
        "node": "node1",
        "boot_id": "0123456789ab",
        "map_memory": 2 << 20,
        "ports": "service",
        "service_ports": [50051],
    }
    return Request(**(fields | overrides))


def load(name: str, wanted: Request) -> Answer:
    """Load in a node's namespace, as the collector does, what was compiled once for all tests."""
    return loader_once.load(netlab.ns(name), compiled, wanted)


def loaded(name: str, wanted: Request, *command: str) -> tuple[Answer, str]:
    """Run the loader, or what stands for it, in a node's namespace; return its answer and what it said besides."""
    enter = ["nsenter", f"--net=/run/netns/{netlab.ns(name)}"]
    done = subprocess.run([*enter, *command], input=msgspec.json.encode(wanted), capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=Answer), done.stderr.decode()


def devices(name: str, tunnel_ports: tuple[int, ...] = ()) -> Devices:
    return netlab.inside(name, lambda: devices_.read([], tunnel_ports))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def start(name: str, meter: Meter, answer: Answer) -> None:
    """Let a meter start in a node's namespace, where its links are made."""
    found = devices(name)
    netlab.inside(name, lambda: meter.start(answer, found))


class Metered:
    """Adds up what one node counted, window by window."""

    def __init__(self, name: str, wanted: Request, *, use_tcx: bool | None = None) -> None:
        self.name = name
        self.root = Path(wanted.pin_dir)
        counters = lambda: netlab.inside(name, netlink.device_counters)  # noqa: E731
        self.meter = Meter(self.root, counters, now_ms, use_tcx=use_tcx)
        try:
            start(name, self.meter, load(name, wanted))
        except BaseException:
            self.detach()  # what is half made would stay forever
            raise
        self.flows: dict[Flow, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self.books: list[WindowLedger] = []

    def collect(self) -> WindowLedger:
        """Flip, drain, clear; every window's books must balance."""
        window = self.meter.flip(now_ms())
        rows = window.rows()
        books = window_ledger(window.record, rows)
        assert is_balanced(books), books
        for flow, (octets, packets) in flows_of(rows).items():
            before = self.flows[flow]
            self.flows[flow] = (before[0] + octets, before[1] + packets)
        self.meter.finish(window)
        self.books.append(books)
        return books

    def forget(self) -> None:
        """Collect, and leave nothing of it in the sums."""
        self.collect()
        self.flows.clear()
        self.books.clear()

    def sum(self, **wanted: Any) -> tuple[int, int]:
        """Collect, and return bytes and packets of all flows so far with these fields."""
        self.collect()
        matching = [
            amount for flow, amount in self.flows.items() if all(getattr(flow, k) == v for k, v in wanted.items())
        ]
        return sum(octets for octets, _ in matching), sum(packets for _, packets in matching)

    def of(self, *addresses: str) -> list[tuple[Flow, tuple[int, int]]]:
        """Return the flows so far from or to these addresses, with bytes and packets: what a failed test shows."""
        return [each for each in self.flows.items() if {each[0].src, each[0].dst} & set(addresses)]

    def aside(self, reason: str) -> tuple[int, int]:
        """Collect, and return bytes and packets put aside so far."""
        self.collect()
        amounts = [books.aside[reason] for books in self.books if reason in books.aside]
        return sum(amount.bytes for amount in amounts), sum(amount.packets for amount in amounts)

    def detach(self) -> None:
        self.meter.close()
        netlab.inside(self.name, lambda: remove_all(self.root))

    def follow(self, *tunnel_ports: int) -> None:
        """Read the node's devices afresh, as the collector does when they change."""
        found = devices(self.name, tunnel_ports)
        netlab.inside(self.name, lambda: self.meter.set_devices(found))


def flows_of(rows: Rows) -> dict[Flow, tuple[int, int]]:
    return {
        Flow(
            address_text(key["src"].tobytes()),
            address_text(key["dst"].tobytes()),
            int(key["src_port"]),
            int(key["dst_port"]),
            int(key["protocol"]),
            DIRECTIONS[key["direction"]],
            int(dnat_of(key)),
            int(key["encapsulation"]),
            SERVERS[int(server_of(key))],
        ): (int(tally["bytes"]), int(tally["packets"]))
        for key, tally in rows
    }


def is_balanced(books: WindowLedger) -> bool:
    """Return whether the hook's count is what was put aside, what is in the map and what was lost, to the byte."""
    accounted = books.map + total(books.aside) + total(books.lost)
    return (accounted.bytes, accounted.packets) == (books.hook.bytes, books.hook.packets)


@contextmanager
def both_nodes(name: str, *, use_tcx: bool | None = None, **wanted: Any) -> Iterator[dict[int, Metered]]:
    """Count on both nodes, under pins of this name; nothing is left afterwards."""
    made: dict[int, Metered] = {}
    try:
        for node in (1, 2):
            asked = request(pin_dir(f"{name}{node}"), node=f"node{node}", **wanted)
            made[node] = Metered(f"node{node}", asked, use_tcx=use_tcx)
        yield made
    finally:
        for meter in made.values():
            meter.detach()


def open_since_ms(meter: Meter) -> int:
    """Return when the open window began."""
    generation = meter._counting
    return generation.read(generation.epoch()).start_ms
