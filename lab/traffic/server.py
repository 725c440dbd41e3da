# SPDX-License-Identifier: Apache-2.0
"""What every pod and outside host serves: TCP and UDP that answer with as many bytes as they are asked for.

A request begins with two 32-bit big-endian numbers: its own length in bytes, these eight included, and the length
of the answer wanted. Over UDP a request is one datagram, an answer datagrams of at most 1,200 bytes.
"""

import asyncio
import contextlib
import socket
import struct
from typing import cast

HEADER = struct.Struct(">II")
DATAGRAM_BYTES = 1_200
_ZEROS = bytes(65_536)


def request(request_bytes: int, response_bytes: int) -> bytes:
    """Encode a request; `request_bytes` below the header's eight become eight."""
    size = max(request_bytes, HEADER.size)
    return HEADER.pack(size, response_bytes) + bytes(size - HEADER.size)


async def serve_tcp(listener: socket.socket) -> asyncio.Server:
    """Serve on a bound, listening socket until the server is closed."""
    return await asyncio.start_server(_answer, sock=listener)


async def serve_udp(bound: socket.socket) -> asyncio.DatagramTransport:
    """Serve on a bound socket until the transport is closed."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(_Datagrams, sock=bound)
    return transport


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            size, wanted = HEADER.unpack(await reader.readexactly(HEADER.size))
            await _discard(reader, size - HEADER.size)
            while wanted > 0:
                writer.write(_ZEROS[:wanted])
                wanted -= len(_ZEROS)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return  # the client is done
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _discard(reader: asyncio.StreamReader, size: int) -> None:
    while size > 0:
        chunk = await reader.read(min(size, len(_ZEROS)))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(chunk)


class _Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(data) < HEADER.size:
            return
        _, wanted = HEADER.unpack_from(data)
        while wanted > 0:
            self._transport.sendto(_ZEROS[: min(wanted, DATAGRAM_BYTES)], addr)
            wanted -= DATAGRAM_BYTES
