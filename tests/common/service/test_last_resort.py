# SPDX-License-Identifier: Apache-2.0
"""Told to stop, every service ends within its budget, also if its event loop never yields."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.services import ServiceProcess, eventually, while_running

# Each service's own main, whose body never yields.
BUSY = """
import asyncio, hashlib, sys
from common.service import last_resort, lifecycle as service

last_resort._LAST_LINE_SECONDS = 30.0
service.CLOSING_SECONDS = 0.5
run = service.run

async def in_python(running):
    print("busy", flush=True)
    while True:
        pass

async def in_c(running):
    # Lets go of Python's lock, and yet gets no further in this thread for minutes.
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

def busy_run(name, settings, _):
    return run(name, settings, globals()[how])

service.run = busy_run
how = sys.argv.pop(1)
from cli.main import main
sys.exit(main())
"""
SERVICES = {
    "collector": ["--node", "n", "--cluster", "c"],
    "enricher": ["--cluster", "c"],
    "metrics": [],
    "flowlog": [],
    "audit": ["--cluster", "c"],
}


@pytest.mark.parametrize("busy", ["in_python", "in_c"])
@pytest.mark.parametrize("name", SERVICES)
def test_a_loop_that_never_yields_does_not_keep_the_process(
    name: str, busy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "busy_service.py").write_text(BUSY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = tmp_path / "out"
    flags = [*SERVICES[name], "--drain-seconds", "0.5"]
    service = ServiceProcess(["busy_service", busy, "run", name], flags, tmp_path / "log", out)
    with while_running(service):
        eventually(lambda: out.exists() and "busy" in out.read_text())
        assert service.terminate() == 1
    assert f"ending at once; it was at {busy}" in service.log.read_text()


def test_a_signal_before_there_is_a_loop_is_not_lost(tmp_path: Path) -> None:
    code = """
import asyncio, os, signal, time
from common.service.last_resort import Signals
signals = Signals(30)
os.kill(os.getpid(), signal.SIGTERM)
async def main():
    stop = asyncio.Event()
    signals.call(asyncio.get_running_loop(), lambda name: (print(name), stop.set()))
    await stop.wait()
asyncio.run(main())
signals.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "SIGTERM"
