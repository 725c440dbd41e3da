# SPDX-License-Identifier: Apache-2.0
"""Random packets, valid and broken: both programs against a model in Python; none is dropped, none is altered."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.kernel.layout import DNAT_NO_CONNTRACK
from collector.window.meter import Devices
from schemas.raw import ENCAPSULATIONS, Hook
from tests.support.collector import metered, netlab, prog_test_run
from tests.support.collector.metered import Flow, Metered
from tests.support.collector.packet_model import (
    Built,
    Told,
    broken_packets,
    crafted_packets,
    folded,
    read,
    valid_packets,
)
from tests.support.collector.prog_test_run import LARGEST, LOCAL_IN, NF_ACCEPT, POST_ROUTING, SMALLEST

ENDS4, ENDS6 = ("10.42.2.1", "10.42.1.1"), ("fd42:2::1", "fd42:1::1")
LISTED = frozenset({50051})
TUNNELS = {(17, 8472, 0): 1, (17, 6081, 0): 2, (4, 0, 0): 3, (47, 0, 0): 4, (17, 53, 1): 5}
TC_ACT_UNSPEC = -1
ESP = 50
# Else a failure whose packets are many is shown as this warning.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
settle = settings(
    max_examples=60,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes and says little more
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@dataclass(frozen=True, slots=True)
class Program:
    """A node without devices, and the program that counts there."""

    meter: Metered
    fd: int

    def run(self, version: int, octets: bytes, hook: int = LOCAL_IN) -> int:
        return prog_test_run.run(self.fd, version, hook, octets)


@contextmanager
def _loaded(hook: Hook, *, direct_loads: bool) -> Iterator[Program]:
    name = f"alone-{hook}"
    root = metered.pin_dir(name)
    netlab.add_namespace(name)
    try:
        meter = Metered(name, metered.request(root, node="alone", hook=hook, direct_loads=direct_loads))
        meter.meter.set_devices(Devices({}, TUNNELS))
        assert meter.meter.current
        path = pins.generation_dir(root, meter.meter.current.meta.generation) / "program"
        with pins.closing_fd(sys_bpf.obj_get(str(path))) as fd:
            yield Program(meter, fd)
        meter.meter.close()
    finally:
        pins.detach(root)
        netlab.del_namespace(name)


@pytest.fixture(scope="module", params=metered.BOTH_PROGRAMS, ids=metered.PROGRAM_NAMES)
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    with _loaded("netfilter", direct_loads=request.param) as program:
        yield program


@pytest.fixture(scope="module", params=metered.BOTH_PROGRAMS, ids=metered.PROGRAM_NAMES)
def classifier(request: pytest.FixtureRequest) -> Iterator[Program]:
    with _loaded("tc", direct_loads=request.param) as program:
        yield program


def _flow(told: Told, *, local_in: bool) -> Flow:
    """Return the flow of a packet that came in over no device, where no connection is tracked.

    `local_in`: it ends here, as far as the program knows: so ESP is unpacked here, and counted again by what is inside.
    """
    if local_in and told.protocol == ESP:
        return Flow(told.src, told.dst, 0, 0, ESP, "egress", DNAT_NO_CONNTRACK, ENCAPSULATIONS.index("esp"))
    outer = TUNNELS.get((told.protocol, told.dst_port, 0)) or TUNNELS.get((told.protocol, told.src_port, 1)) or 0
    ports = folded(told.src_port, told.dst_port, LISTED)
    return Flow(told.src, told.dst, *ports, told.protocol, "egress", DNAT_NO_CONNTRACK, outer)


def _expected(
    packets: list[tuple[int, bytes]], *, local_in: bool
) -> tuple[dict[Flow, tuple[int, int]], tuple[int, int]]:
    """Return the flows, and bytes and packets of what is no packet."""
    octets: Counter[Flow] = Counter()
    count: Counter[Flow] = Counter()
    malformed = [0, 0]
    for version, packet in packets:
        told = read(version, packet)
        if told is None:
            malformed = [malformed[0] + len(packet), malformed[1] + 1]
        else:
            flow = _flow(told, local_in=local_in)
            octets[flow] += len(packet)
            count[flow] += 1
    return {flow: (octets[flow], count[flow]) for flow in octets}, (malformed[0], malformed[1])


@settle
@given(st.lists(valid_packets(ENDS4, ENDS6), min_size=1, max_size=30))
def test_the_model_reads_what_scapy_wrote(packets: list[Built]) -> None:
    for packet in packets:
        assert read(packet.version, packet.octets) == packet.told


ANY = st.one_of(
    valid_packets(ENDS4, ENDS6).map(lambda built: (built.version, built.octets)),
    broken_packets(ENDS4, ENDS6),
).filter(lambda packet: SMALLEST[packet[0]] <= len(packet[1]) <= LARGEST)


MANY = st.one_of(crafted_packets(300, ENDS4, ENDS6), st.lists(ANY, min_size=1, max_size=40))


@settle
@given(MANY)
def test_the_program_says_what_the_model_says(program: Program, packets: list[tuple[int, bytes]]) -> None:
    program.meter.flows.clear()
    assert {program.run(version, packet) for version, packet in packets} == {NF_ACCEPT}
    _check(program.meter, packets, local_in=True)


@settle
@given(MANY)
def test_the_classifier_says_what_the_model_says(classifier: Program, packets: list[tuple[int, bytes]]) -> None:
    classifier.meter.flows.clear()
    for version, packet in packets:
        assert prog_test_run.run_classifier(classifier.fd, version, packet) == (TC_ACT_UNSPEC, packet)
    _check(classifier.meter, packets, local_in=False)


def _check(meter: Metered, packets: list[tuple[int, bytes]], *, local_in: bool) -> None:
    books = meter.collect()
    flows, malformed = _expected(packets, local_in=local_in)
    assert dict(meter.flows) == flows
    aside = books.aside.get("malformed")
    assert (aside.bytes, aside.packets) == malformed if aside else malformed == (0, 0)
    assert (books.hook.bytes, books.hook.packets) == (sum(len(packet) for _, packet in packets), len(packets))


@settings(settle, max_examples=20)
@given(MANY)
def test_the_verdict_is_accept_at_post_routing_too(program: Program, packets: list[tuple[int, bytes]]) -> None:
    assert {program.run(version, packet, POST_ROUTING) for version, packet in packets} == {NF_ACCEPT}
    books = program.meter.collect()
    assert (books.hook.bytes, books.hook.packets) == (sum(len(packet) for _, packet in packets), len(packets))
