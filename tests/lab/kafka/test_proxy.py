# SPDX-License-Identifier: Apache-2.0
"""The proxy between a client and its server: what it holds back arrives later whole, what it cuts is seen as cut."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.lab.proxy import Proxy
from tests.support.services import eventually


@pytest.fixture
def echo() -> Iterator[socket.socket]:
    """A server that sends back what it is sent, on one connection after the other."""

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
                with client:
                    while received := client.recv(65536):
                        client.sendall(received)
            except OSError:
                if server.fileno() < 0:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.fixture
def proxy(echo: socket.socket) -> Iterator[Proxy]:
    with Proxy(echo.getsockname()) as made:
        yield made


def client_of(proxy: Proxy, timeout: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout)


def received(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size and (piece := client.recv(65536)):
        found += piece
    return found


def test_passes_everything_on_whatever_it_is_told(proxy: Proxy) -> None:
    sent = bytes(range(256)) * 4096
    with client_of(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        assert received(client, len(sent)) == sent
        sender.join()
        proxy.delay_seconds, proxy.bytes_per_second = 0.01, 1_000_000
        client.sendall(sent[:100_000])
        assert received(client, 100_000) == sent[:100_000]
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


@pytest.mark.parametrize("direction", ["both", "requests", "replies"])
def test_silence_holds_back_and_loses_nothing(proxy: Proxy, direction: str) -> None:
    with client_of(proxy) as client:
        proxy.silence(direction)  # type: ignore[arg-type]
        client.sendall(b"asked")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(5)
        client.settimeout(20)
        proxy.heal()
        assert received(client, 5) == b"asked"


def test_cut_resets_and_refuses_until_healed(proxy: Proxy) -> None:
    with client_of(proxy) as client:
        client.sendall(b"a")
        assert received(client, 1) == b"a"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)

    def served() -> bool:
        try:
            with client_of(proxy) as client:
                client.sendall(b"b")
                return received(client, 1) == b"b"
        except OSError:
            return False

    assert not served()
    proxy.heal()
    eventually(served)
