# SPDX-License-Identifier: Apache-2.0
"""The life of a service: what it clears away meanwhile, and its end, within its budget, whatever hangs."""

from pathlib import Path

import pytest

from tests.support.services import ServiceProcess, eventually, while_running

SERVICE = """
import asyncio, gc, logging, os, resource, sys, threading, weakref
from common.service import last_resort, lifecycle as service
from common.settings import ServiceSettings, load

last_resort._LAST_LINE_SECONDS = 30.0

service.CLOSING_SECONDS = BUDGET
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

async def opens_many(running):
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(2000)]
    logging.warning("%d are open", len(descriptors))
    await running.stopping.wait()

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
settings = load(ServiceSettings, "run test", sys.argv[1:])
sys.exit(service.run("test", settings, BODY))
"""


def service(directory: Path, body: str, draining: float = 60, closing: float = 60) -> ServiceProcess:
    """A service of its own: what it does, and within how many seconds of being told so it must end."""
    (directory / "a_service.py").write_text(SERVICE.replace("BODY", body).replace("BUDGET", str(closing)))
    return ServiceProcess(["a_service"], ["--drain-seconds", str(draining)], directory / "log")


@pytest.mark.parametrize(
    ("body", "budgets", "status", "says"),
    [
        ("drains", (60, 60), 0, "stopped"),
        ("dawdles", (0.5, 60), 1, "did not drain within 0.5 s of being told to stop"),
        ("will_not_be_cancelled", (0.5, 0.5), 1, "did not end within 1 s of being told to stop: ending at once"),
        ("hangs_in_a_thread", (0.5, 0.5), 1, "did not end within 1 s of being told to stop: ending at once"),
    ],
)
def test_it_ends_after_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, budgets: tuple[float, float], status: int, says: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with while_running(service(tmp_path, body, *budgets)) as running:
        eventually(running.ready)
        assert running.terminate() == status
    assert says in running.log.read_text()


def test_cycles_are_collected_though_hardly_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with while_running(service(tmp_path, "leaves_a_cycle")) as running:
        eventually(lambda: "collected" in running.log.read_text())
        assert running.terminate() == 0


def test_files_are_opened_beyond_the_usual_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector at hook tc on a node with a tunnel device for each other node has two links a device open."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with while_running(service(tmp_path, "opens_many")) as running:
        eventually(lambda: "2000 are open" in running.log.read_text())
        assert running.terminate() == 0
