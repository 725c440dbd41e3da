# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that delays, throttles, silences or cuts what passes through it, at a word from a test.

It stands between a client and a broker (or an API) that advertises the proxy's address as its own. It has a thread
of its own, so that tests that are not coroutines can use it, and every method may be called from any thread.
"""

import asyncio
import socket
import struct
import threading
from types import TracebackType
from typing import Literal

from lab.kafka.broker import free_port

_PIECE_BYTES = 64 * 1024

Direction = Literal["both", "requests", "replies"]
"""Requests flow from the client to the target, replies the other way."""


class Proxy:
    """Listens on `port` of 127.0.0.1 for `target`. What is set holds for connections that are open, too.

    `delay_seconds`: each piece (at most 64 KiB) is passed on that much later, one after the other.
    `bytes_per_second`: of each direction of each connection; None: as fast as it goes.
    """

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self.port = port or free_port()
        self.delay_seconds = 0.0
        self.bytes_per_second: float | None = None
        self.connections_seen = 0
        self._target = target
        self._passing = {"requests": asyncio.Event(), "replies": asyncio.Event()}
        self._refusing = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> "Proxy":
        self.heal()
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def silence(self, direction: Direction = "both") -> None:
        """Pass nothing on in that direction; connections stay open, and what is sent waits."""
        for silent in ("requests", "replies") if direction == "both" else (direction,):
            self._loop.call_soon_threadsafe(self._passing[silent].clear)

    def cut(self) -> None:
        """Reset every connection and close new ones at once, until `heal`."""
        self._refusing = True
        self.reset()

    def reset(self) -> None:
        """Reset every open connection; new ones are served."""
        self._loop.call_soon_threadsafe(self._reset_all)

    def heal(self) -> None:
        """Pass everything on again, at full speed; what waited is not lost."""
        for passing in self._passing.values():
            self._loop.call_soon_threadsafe(passing.set)
        self._refusing = False
        self.delay_seconds, self.bytes_per_second = 0.0, None

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self._listening.set()
        await self._stop.wait()
        server.close()
        self._reset_all()
        pumps = asyncio.all_tasks() - {asyncio.current_task()}
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def _reset_all(self) -> None:
        for writer in list(self._open):
            _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_seen += 1
        try:
            if self._refusing:
                raise ConnectionRefusedError
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        ends = {writer, target_writer}
        self._open |= ends
        try:
            await asyncio.gather(
                self._pump(reader, target_writer, "requests"), self._pump(target_reader, writer, "replies")
            )
        except OSError:
            for end in ends:
                _reset(end)
        finally:
            self._open -= ends
            for end in ends:
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            await asyncio.sleep(self.delay_seconds)
            if self.bytes_per_second is not None:
                await asyncio.sleep(len(piece) / self.bytes_per_second)
            await self._passing[direction].wait()
            writer.write(piece)
            await writer.drain()
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    # Lingering for no time is what makes the kernel send RST instead of FIN (socket(7)).
    link = writer.get_extra_info("socket")
    if not writer.transport.is_closing() and link is not None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
