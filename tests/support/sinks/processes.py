# SPDX-License-Identifier: Apache-2.0
"""A sink as a process of its own."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.support.services import ServiceProcess, while_running


class SinkProcess(ServiceProcess):
    """`zonemeter run metrics|flowlog`, or the same with a crash built in (`crash`, see crashing.py)."""

    def __init__(
        self,
        room: str,
        flags: Sequence[str],
        log: Path,
        crash: str | None = None,
        stdout: Path | int | None = None,
    ) -> None:
        module = ["tests.support.sinks.crashing", room, crash] if crash else ["cli", "run", room]
        super().__init__(module, flags, log, stdout)


def running(
    room: str, flags: Sequence[str], log: Path, crash: str | None = None, stdout: Path | int | None = None
) -> AbstractContextManager[SinkProcess]:
    """Run a sink while the context lasts; it is killed if it still runs then."""
    return while_running(SinkProcess(room, flags, log, crash, stdout))
