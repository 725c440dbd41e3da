# SPDX-License-Identifier: Apache-2.0
"""What the traffic's pods run, out of a ConfigMap and in zonemeter's image: a server, or a client that is told when.

`serve PORT` answers over TCP and UDP. `ask HOST:PORT...` asks every address of every host in turn, round by round, as
long as /tmp/go is there; /tmp/busy is there while it does. With `--rounds N` it is told nothing, and ends. A request
that failed is a line.
"""

import argparse
import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.traffic.server import request, serve_tcp, serve_udp

REQUEST_BYTES, RESPONSE_BYTES = 3_000, 40_000  # over TCP: more than a segment either way
QUESTION_BYTES, ANSWER_BYTES = 400, 3_000  # over UDP: one datagram, three
_GO, _BUSY = Path("/tmp/go"), Path("/tmp/busy")
_SECONDS = 5.0


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("serve", "ask"))
    parser.add_argument("words", nargs="+")
    parser.add_argument("--rounds", type=int, default=0)
    asked = parser.parse_args()
    if asked.what == "serve":
        asyncio.run(serve(int(asked.words[0])))
    for _ in range(asked.rounds):
        ask_all(asked.words)
    while not asked.rounds:
        if _GO.exists():
            _BUSY.touch()
            ask_all(asked.words)
        else:
            _BUSY.unlink(missing_ok=True)
        time.sleep(0.3)


async def serve(port: int) -> None:
    """Serve on every address, until killed."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    bound = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.bind(("::", port))
    listener.setblocking(False)
    bound.setblocking(False)
    await serve_udp(bound)
    async with await serve_tcp(listener) as server:
        await server.serve_forever()


def ask_all(targets: Sequence[str]) -> None:
    """Ask each address of each target once over TCP and once over UDP."""
    for target in targets:
        host, _, port = target.rpartition(":")
        try:
            found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            logging.warning("%s: %s", target, error)
            continue
        for family, *_, address in found:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                try:
                    ask(family, kind, address)
                except OSError as error:
                    logging.warning("%s %s: %s", target, address, error)


def ask(family: int, kind: int, address: Any) -> None:
    """Ask once; raise `OSError` if the answer does not come whole."""
    stream = kind == socket.SOCK_STREAM
    wanted = RESPONSE_BYTES if stream else ANSWER_BYTES
    with contextlib.closing(socket.socket(family, kind)) as client:
        client.settimeout(_SECONDS)
        client.connect(address)
        client.sendall(request(REQUEST_BYTES if stream else QUESTION_BYTES, wanted))
        while wanted > 0:
            found = client.recv(65_536)
            if not found:
                raise OSError(f"{wanted} bytes did not come")
            wanted -= len(found)


if __name__ == "__main__":
    main()
