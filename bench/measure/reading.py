# SPDX-License-Identifier: Apache-2.0
"""Readings of files by processes of their own: `zonemeter`'s and the yardstick's, and what each takes."""

import json
import resource
import sys
import time
from collections.abc import Callable

from bench.measure.process import output_of

# Seconds, CPU seconds with the start of Python, MB resident at most, and what the reading itself counts.
Took = dict[str, float]


class Readings:
    """A module that calls `run`, and the arguments of its readings; `taken`: what the measured ones took.

    `beside`: what the yardstick's took, `others`: what others' did.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module, self._arguments = module, arguments
        self.taken: list[Took] = []
        self.beside: list[Took] = []
        self.others: dict[str, list[Took]] = {}

    def _read(self, which: str) -> Took:
        return read(self._module, which, *self._arguments)

    def ours(self) -> float:
        """Return the CPU seconds of what is measured."""
        self.taken.append(self._read("ours"))
        return self.taken[-1]["cpu_seconds"]

    def yardstick(self) -> float:
        """Return the yardstick's."""
        self.beside.append(self._read("yardstick"))
        return self.beside[-1]["cpu_seconds"]

    def also(self, which: str) -> float:
        """Return those of another."""
        took = self._read(which)
        self.others.setdefault(which, []).append(took)
        return took["cpu_seconds"]


def read(module: str, which: str, *arguments: str) -> Took:
    """Do one reading by a process of its own; return what it took."""
    took: Took = json.loads(output_of(module, which, *arguments))
    return took


def run(**readings: Callable[..., Took]) -> None:
    """Do one reading as the command line says, `WHICH ARGUMENT...`; print what it took, as JSON."""
    began = time.monotonic()
    counted = readings[sys.argv[1]](*sys.argv[2:])
    used = resource.getrusage(resource.RUSAGE_SELF)
    took = {"seconds": time.monotonic() - began, "cpu_seconds": used.ru_utime + used.ru_stime}
    print(json.dumps({**took, "peak_mb": used.ru_maxrss / 1000, **counted}))
