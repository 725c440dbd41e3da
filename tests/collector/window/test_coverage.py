# SPDX-License-Identifier: Apache-2.0
"""A wrong choice of uplinks shows, on a node whose address is on a bridge that holds its network card."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from collector.attach import netlink, uplinks
from collector.collect import Collector
from collector.kernel import pins
from collector.settings import CollectorSettings
from collector.window.coverage import WindowCoverage, of_window
from collector.window.encode import ledger_record
from collector.window.meter import Devices, Meter
from common.service.running import Service
from tests.collector.test_collect import Recorder, live, until
from tests.support.collector import metered, netlab
from tests.support.collector.netlab import send_udp

HOST = "192.168.50.77"


class Bridged:
    """The node's meter, with uplinks as one chooses."""

    def __init__(self, root: Path) -> None:
        self.meter = Meter(root, lambda: netlab.inside("bridged", netlink.device_counters), metered.now_ms)
        answer = metered.load("bridged", metered.request(root))
        netlab.inside("bridged", lambda: self.meter.start(answer, Devices({}, {})))

    def covered(self, patterns: Sequence[str]) -> tuple[list[str], WindowCoverage]:
        """Return the uplinks chosen, and the coverage of a window with 2 MB in and 1.5 MB out."""
        links, routes = netlab.inside("bridged", netlink.read)
        chosen = {link.index: link.name for link in uplinks.choose(links, routes, patterns)}
        self.meter.set_devices(Devices(chosen, {}))
        self._flip()
        send_udp("fabric", "bridged", HOST, count=2000, size=1000)
        send_udp("bridged", "fabric", netlab.CLIENT, count=1500, size=1000)
        return sorted(chosen.values()), self._flip()

    def _flip(self) -> WindowCoverage:
        window = self.meter.flip(metered.now_ms())
        entry = ledger_record(window.meta, window.record, window.rows(), partition=0)
        self.meter.finish(window)
        return of_window(entry)


@pytest.fixture(scope="module")
def node(nodes: None) -> Iterator[Bridged]:
    netlab.add_namespace("bridged")
    netlab.ip(
        "bridged",
        f"""
        link add eth0 type veth peer name nb netns {netlab.ns("fabric")}
        link add br0 type bridge
        link set eth0 master br0 up
        link set br0 up
        link add idle0 type veth peer name idle1
        link set idle0 up
        addr add {HOST}/24 dev br0
        route add default via {netlab.CLIENT}
        """,
    )
    netlab.ip("fabric", "link set nb master br0 up")
    root = metered.pin_dir("bridged")
    try:
        made = Bridged(root)
        yield made
        made.meter.close()
    finally:
        pins.detach(root)


def test_the_right_uplink_is_found_and_covers_all(node: Bridged) -> None:
    names, found = node.covered([])
    assert names == ["br0"]
    ratios = found.ratios()
    assert ratios.keys() == {"in", "out"}
    assert min(ratios.values()) > 0.95, "14 of 1,042 bytes are Ethernet's"
    assert found.problem() is None


def test_a_port_of_the_bridge_is_the_wrong_one(node: Bridged) -> None:
    names, found = node.covered(["eth0"])
    assert names == ["eth0"]
    assert found.ratios()["in"] < 0.01, "what comes in has the bridge's name"
    problem = found.problem()
    assert problem is not None
    assert "upper device" in problem[1]


def test_a_device_that_leads_nowhere_is_the_wrong_one(node: Bridged) -> None:
    _, found = node.covered(["idle0"])
    assert found.ratios() == {}
    problem = found.problem()
    assert problem is not None
    assert "next to nothing passed the uplinks" in problem[0]


def test_the_one_that_leads_out_is_among_many(node: Bridged) -> None:
    """As a node with an interface for each group of pods; by name the one in use comes last."""
    made = [f"a{number:02}" for number in range(30)]
    netlab.ip("bridged", "\n".join(f"link add {name} type veth peer name p{name}" for name in made))
    try:
        names, found = node.covered(["a*", "br0"])
        assert names == [*made, "br0"]
        assert found.ratios().keys() == {"in", "out"}
        assert min(found.ratios().values()) > 0.95
        assert found.problem() is None
    finally:
        netlab.ip("bridged", "\n".join(f"link del {name}" for name in made))


@pytest.mark.parametrize(("pattern", "right"), [("", True), ("br*", True), ("eth*", False)], ids=["rule", "br", "eth"])
def test_the_gauge_and_the_log_say_so(
    node: Bridged, pattern: str, right: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The collector itself, with its setting: what came in over a port of the bridge has not its name."""
    root = metered.pin_dir("gauge")
    settings = CollectorSettings(
        node="bridged", window_seconds=1, pin_dir=root, spool_dir=tmp_path, map_memory=1 << 20, uplinks=pattern
    )

    async def script(service: Service, _: Collector) -> None:
        def ratio() -> float | None:
            return service.registry.get_sample_value("zonemeter_collector_coverage_ratio", {"way": "in"})

        async def traffic() -> None:
            while True:
                await asyncio.to_thread(send_udp, "fabric", "bridged", HOST, count=1000)

        sending = asyncio.create_task(traffic())
        try:
            await until(lambda: ratio() is not None)
        finally:
            sending.cancel()
        found = ratio()
        assert found is not None
        assert found > 0.95 if right else found < 0.01
        service.stopping.set()

    caplog.set_level(logging.WARNING)
    try:
        live(settings, Recorder(), script, at="bridged")
    finally:
        pins.detach(root)
    assert ("came in over the uplinks" in caplog.text) is not right
