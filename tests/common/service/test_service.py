# SPDX-License-Identifier: Apache-2.0
"""The life of a service: what it clears away meanwhile, and its end, within its budget, whatever hangs."""

from pathlib import Path

import pytest

from tests.support.services import ServiceProcess, eventually, while_running

SERVICE = """
import asyncio, gc, logging, sys, threading, weakref
from common.service import lifecycle as service
from common.settings import ServiceSettings, load

service.CLOSING_SECONDS = 0.5
service.COLLECT_SECONDS = 0.05

async def drains(running):
    await running.stopping.wait()

async def dawdles(running):
    await asyncio.sleep(600)

async def will_not_be_cancelled(running):
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

async def hangs_in_a_thread(running):
    await asyncio.to_thread(threading.Event().wait)

class Cycle:
    def __init__(self):
        self.itself = self

async def leaves_a_cycle(running):
    gc.disable()
    weakref.finalize(Cycle(), logging.warning, "collected")
    await running.stopping.wait()

settings = load(ServiceSettings, "run test", sys.argv[1:])
sys.exit(service.run("test", settings, BODY))
"""


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("drains", 0, "stopped"),
        ("dawdles", 1, "did not drain within 0.5 s of being told to stop"),
        ("will_not_be_cancelled", 1, "did not end within 1 s of being told to stop: ending at once"),
        ("hangs_in_a_thread", 1, "did not end within 1 s of being told to stop: ending at once"),
    ],
)
def test_it_ends_after_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, status: int, says: str
) -> None:
    (tmp_path / "a_service.py").write_text(SERVICE.replace("BODY", body))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    service = ServiceProcess(["a_service"], ["--drain-seconds", "0.5"], tmp_path / "log")
    with while_running(service):
        eventually(service.ready)
        assert service.terminate() == status
    assert says in service.log.read_text()


def test_cycles_are_collected_though_hardly_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_service.py").write_text(SERVICE.replace("BODY", "leaves_a_cycle"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    service = ServiceProcess(["a_service"], [], tmp_path / "log")
    with while_running(service):
        eventually(lambda: "collected" in service.log.read_text())
        assert service.terminate() == 0
