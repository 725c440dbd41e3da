# SPDX-License-Identifier: Apache-2.0
"""A lab that nobody else on this machine uses."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from lab import cluster
from lab.plan import Plan
from lab.stories import shop

_SLOTS = 8


@contextmanager
def own_plan() -> Iterator[Plan]:
    """Give a plan that no other run has while the context lasts; what a killed run left of it is removed first."""
    for slot in range(_SLOTS):
        taken = socket.socket(socket.AF_UNIX)
        try:
            taken.bind(f"\0zonemeter-tests/{slot}")
        except OSError:
            taken.close()
            continue
        with taken:
            made = shop(f"zmt{slot}", 200 + slot)
            asyncio.run(cluster.down(made.prefix))
            try:
                yield made
            finally:
                asyncio.run(cluster.down(made.prefix))
        return
    raise AssertionError("eight test runs at once")
