# SPDX-License-Identifier: Apache-2.0
"""What tests of several rooms need: a lab of this run's own, so that it stands beside others, and one Kafka."""

import asyncio
import gc
import logging
import os
import sys
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from common.service.log import JsonFormatter
from lab.kafka.broker import Broker
from lab.plan import Plan
from tests.support.labs import own_plan
from tests.support.services import ROOT

# No test depends on a wall time. The examples are always the same, so that a failure is due to the change under test;
# HYPOTHESIS_PROFILE=search looks for new ones.
hypothesis.settings.register_profile("zonemeter", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "zonemeter"))

# The tests start several hundred processes: each module is compiled once, not in every one of them, whatever the
# environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What a test needs beside Python, told by its fixtures, by what its module imports, or by a mark of its own. Without
# any it is `quick`: no root, no server, no process, no archive (`make quick`).
_FIXTURES = {
    "kafka": {"broker", "own_broker", "brokers", "topics"},
    "kernel": {"nodes", "node", "meters", "meter", "program", "bpffs", "pin_dir", "network_plan"},
    "cluster": {"plan"},
    "process": {"browser", "bucket"},
}
_MODULES = {
    "kafka": {"Broker", "brokers"},
    "kernel": {"netlab", "metered", "prog_test_run", "namespaces"},
    "process": {
        "subprocess",
        "multiprocessing",
        "ServiceProcess",
        "while_running",
        "clickhouse",
        "containers",
        "kubernetes_validate",
        "with_component",
    },
    "root": {"small_disk"},
    "server": {"Followed", "KubeApi", "Script"},
    "archive": {"FlowArchive", "ArchiveQuery", "BillFiles", "Written", "duckdb", "pq", "summed"},
}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among half a million objects that stay until the end, neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it needs, and put the files in the order in which processes take them.

    Files that need nothing come last: they are short, so that no process is alone with a long one at the end. The
    others are mixed, always in the same way: a room's files are alike, and while one waits another should compute.
    """
    quick: dict[Path, bool] = {}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        names = set(vars(getattr(item, "module", None) or object))
        marks = {mark for mark, which in _FIXTURES.items() if which & fixtures}
        marks |= {mark for mark, which in _MODULES.items() if which & names}
        marks |= {mark.name for mark in item.iter_markers()} & {*_FIXTURES, *_MODULES}
        for mark in sorted(marks) or ["quick"]:
            item.add_marker(mark)
        quick[item.path] = quick.get(item.path, True) and not marks
    items.sort(key=lambda item: (quick[item.path], zlib.crc32(item.path.relative_to(ROOT).as_posix().encode())))


@pytest.fixture(scope="session")
def plan() -> Iterator[Plan]:
    """A plan that no other test run on this machine uses."""
    with own_plan() as made:
        yield made


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that lives as long as the tests; each test has topics of its own."""
    made = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.kill()


@pytest.fixture(autouse=True)
def _service_logs_no_further() -> Iterator[None]:
    """A service that a test ran in this process logs to that test's stderr, which is closed after it."""
    yield
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each.formatter, JsonFormatter)]:
        root.removeHandler(handler)
