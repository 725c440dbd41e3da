# SPDX-License-Identifier: Apache-2.0
"""What somebody who reaches a service's port can do to it: a real process, attacked, stays small and answers."""

import asyncio
import http.client
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from common.service import http_limits, http_server
from common.service.health import Health
from common.service.http_limits import HttpTimeouts
from lab.kafka.broker import free_port
from tests.support.services import ServiceProcess, eventually, while_running

BODY_BYTES = 9_000_000
CLOSED = "zonemeter_http_closed_connections_total"
SERVICE = """
import sys
from common.service import http_limits, lifecycle as service
from common.settings import ServiceSettings, load

# On a busy machine who reads 20 of these answers takes longer than any reader may.
object.__setattr__(http_limits.PATIENCE, "answer_seconds", 300.0)

async def body(running):
    renderings = []
    def render():
        renderings.append(1)
        return b"renderings %d\\n" % len(renderings) + b"#" * BODY_BYTES + b"\\n"
    running.render = render
    await running.stopping.wait()

sys.exit(service.run("test", load(ServiceSettings, "run test", sys.argv[1:]), body))
"""
# Of the smallest limit in k8s/base, 512 MiB, less what a service holds anyway.
GROWTH_BYTES = 160 * 1024 * 1024


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceProcess]:
    (tmp_path / "a_service.py").write_text(SERVICE.replace("BODY_BYTES", str(BODY_BYTES)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with while_running(ServiceProcess(["a_service"], [], tmp_path / "log")) as running:
        eventually(running.ready)
        yield running
        assert running.terminate() == 0
        assert "Traceback" not in running.log.read_text()


@contextmanager
def connections(service: ServiceProcess, number: int, first: bytes, receive_buffer: int = 0) -> Iterator[None]:
    """Hold as many connections; each has sent `first` (a connection that the service closed is left as it is)."""
    host, _, port = service.listen.rpartition(":")
    with ExitStack() as held:
        for _ in range(number):
            client = held.enter_context(socket.socket())
            if receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.connect((host, int(port)))
            client.sendall(first)
        yield


def held_bytes(service: ServiceProcess) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def descriptors(service: ServiceProcess) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


UNFINISHED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 4000) for n in range(25))


@pytest.mark.parametrize(
    ("number", "first", "receive_buffer"),
    [
        pytest.param(1130, b"", 0, id="idle connections"),
        pytest.param(1000, UNFINISHED, 0, id="unfinished headers"),
        pytest.param(100, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 4096, id="readers that do not read"),
    ],
)
def test_an_attack_costs_little_and_keeps_nobody_out(
    service: ServiceProcess, number: int, first: bytes, receive_buffer: int
) -> None:
    before, files = held_bytes(service), descriptors(service)
    with connections(service, number, first, receive_buffer):
        assert service.get("/healthz") == (200, "ok\n")
        assert len(service.get("/metrics")[1]) > BODY_BYTES
        # What the kernel has taken and the service not yet is at most one backlog.
        assert eventually(lambda: descriptors(service) <= files + http_limits.CONNECTIONS + 1)
    assert service.get("/readyz") == (200, "ok\n")
    assert held_bytes(service) - before < GROWTH_BYTES


def test_who_made_room_is_counted(service: ServiceProcess) -> None:
    with connections(service, http_limits.CONNECTIONS + 9, b""):
        # The one that asks takes a place too.
        assert eventually(lambda: service.samples().get((CLOSED, ("full",)), 0) >= 10)
    assert service.samples()[CLOSED, ("slow",)] == 0


@pytest.mark.parametrize(
    ("patience", "first", "reason"),
    [
        pytest.param(
            HttpTimeouts(answer_seconds=0.2), b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "slow", id="no reading"
        ),
        pytest.param(HttpTimeouts(idle_seconds=0.2), b"", "idle", id="nothing sent"),
        pytest.param(HttpTimeouts(idle_seconds=0.2), b"GET /metrics HTTP/1.1\r\nX: ", "idle", id="half a header"),
    ],
)
def test_who_takes_too_long_is_closed_and_counted(
    patience: HttpTimeouts, first: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry, listen = CollectorRegistry(), f"127.0.0.1:{free_port()}"

    def closed() -> dict[str, float]:
        return {each: registry.get_sample_value(CLOSED, {"reason": each}) or 0 for each in ("full", "idle", "slow")}

    def received(client: socket.socket) -> int:
        """Return how much comes until the service is gone."""
        size = 0
        with suppress(ConnectionResetError):
            while piece := client.recv(65_536):
                size += len(piece)
        return size

    async def inside() -> None:
        async with http_server.serve(listen, Health(), registry, lambda: b"#" * BODY_BYTES, patience):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", int(listen.partition(":")[2])))
                client.sendall(first)
                await asyncio.to_thread(eventually, lambda: closed()[reason])
                assert await asyncio.to_thread(received, client) < BODY_BYTES
        assert closed() == {"full": 0, "idle": 0, "slow": 0} | {reason: 1}

    asyncio.run(inside())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_scrapes_at_the_same_time_share_one_rendering(service: ServiceProcess) -> None:
    host, _, port = service.listen.rpartition(":")
    asked = [http.client.HTTPConnection(host, int(port), timeout=20) for _ in range(20)]
    for client in asked:
        client.request("GET", "/metrics")
    said = [client.getresponse().read().partition(b"\n")[0] for client in asked]
    for client in asked:
        client.close()
    # They are sent over more than a second on a busy machine, but far from once each.
    assert len(set(said)) <= http_limits.RENDERINGS


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /healthz", 200),
        ("HEAD /metrics", 200),
        ("GET /elsewhere", 404),
        ("POST /metrics", 405),
        ("nonsense", 400),
        ("GET /" + "x" * 5000, 400),
    ],
)
def test_no_answer_says_what_serves(service: ServiceProcess, request_line: str, status: int) -> None:
    host, _, port = service.listen.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = client.makefile("rb").read().partition(b"\r\n\r\n")[0]
    assert head.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status))
    assert b"server:" not in head.lower()
