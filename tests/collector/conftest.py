# SPDX-License-Identifier: Apache-2.0
"""Two nodes for a module's tests, and a clean kernel afterwards."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.host import preflight
from collector.kernel import pins
from lab.kafka.broker import Broker
from tests.support.collector import collector_process, metered, netlab
from tests.support.collector.collector_process import Process
from tests.support.collector.metered import Metered


@pytest.fixture(scope="session", autouse=True)
def _bpffs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a collector sees to when it starts; here its parts are tested without it."""
    preflight.check_bpffs(metered.pin_dir("any"))
    # With xdist a process has a directory of its own in one of all.
    temporary = tmp_path_factory.getbasetemp()
    metered.compiled = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "compiled"
    metered.compiled.mkdir(exist_ok=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    preflight.check_bpffs(metered.pin_dir("node1"))
    try:
        netlab.build()
        netlab.add_services(1)
        yield
    finally:
        netlab.tear_down()


@pytest.fixture(scope="module", params=metered.BOTH_PROGRAMS, ids=metered.PROGRAM_NAMES)
def _meters(nodes: None, request: pytest.FixtureRequest) -> Iterator[dict[int, Metered]]:
    with metered.both_nodes("node", direct_loads=request.param) as made:
        yield made


@pytest.fixture
def meters(_meters: dict[int, Metered]) -> dict[int, Metered]:
    """Both nodes' meters, with nothing of earlier tests in their sums."""
    for meter in _meters.values():
        meter.forget()
    return _meters


@pytest.fixture(scope="module")
def broker(nodes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """On the fabric, where the nodes reach it; not started."""
    made = Broker(
        tmp_path_factory.mktemp("kafka"), port=collector_process.PORT, more_listeners=((netlab.CLIENT, 9094),)
    )
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def collector(broker: Broker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    made = Process(re.sub("[^a-z0-9]", "-", request.node.name)[:40], tmp_path)
    try:
        yield made
    finally:
        if made.running is not None and made.running.poll() is None:
            made.signal(signal.SIGKILL)
        pins.detach(made.pin_dir)
