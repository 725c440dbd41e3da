# SPDX-License-Identifier: Apache-2.0
"""`make bench-index`: a cluster of 100,000 pods on 5,000 nodes, listed, indexed and followed.

The API is a server that hands out ready-made pages of 500 objects with all that kubelet and controllers fill in, some
7 kB a pod, over HTTP on loopback (bench/made_up/server.py). The yardstick of the list reads the same pages and calls
orjson.loads on each. The joins' yardstick is the same process while nothing changes: 50 nodes' chunks are joined in the
loop that takes in the watch, with and without 1,000 changes of pods a second in turn (readiness, deletion, a new pod at
an address that another one had), per second of the process's CPU, the watch's own share included.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.measure import report
from bench.measure.figure import Figure, Target, in_turn
from bench.measure.process import output_of, page, running, until
from bench.measure.report import Table
from bench.services.index_client import CHANGES_A_SECOND, Found
from lab.kafka.broker import free_port
from lab.kube.kubeconfig import kubeconfig

_MOST_READS, _MOST_SECONDS, _MOST_MB, _LEAST_JOINS = 2.0, 15.0, 400.0, 0.8


class Rig:
    """The server, and clients that are processes of their own."""

    def __init__(self, directory: Path, port: int) -> None:
        self._port = port
        self._kubeconfig = directory / "kubeconfig"
        self._kubeconfig.write_bytes(kubeconfig(f"http://127.0.0.1:{port}", "none"))
        self.synced: list[Found] = []
        self.joined: list[Found] = []

    def read(self) -> float:
        """Return how long it takes to read all pages, in CPU seconds."""
        return self._client("read")["cpu_seconds"]

    def sync(self) -> float:
        """Return how long it takes to list everything into the index, in CPU seconds."""
        self.synced.append(self._client("sync"))
        return self.synced[-1]["cpu_seconds"]

    def join(self) -> None:
        """Measure joins without and with changes."""
        self.joined.append(self._client("joins"))

    def _client(self, what: str) -> Found:
        found: Found = json.loads(
            output_of("bench.services.index_client", what, str(self._port), str(self._kubeconfig))
        )
        return found


def measure(rounds: int) -> Sequence[Table]:
    """Return the tables of the list and of the joins."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory, running("bench.made_up.server", str(port)):
        until(lambda: page(f"http://127.0.0.1:{port}/changes?rate=0") is not None, "the API's pages")
        rig = Rig(Path(directory), port)
        listed, read = in_turn(rounds, rig.sync, rig.read)
        for _ in range(rounds):
            rig.join()
    synced = rig.synced[1:]
    wall, peak = ([each[name] for each in synced] for name in ("wall_seconds", "peak"))
    resident = [each["resident"] / 1e6 for each in synced]
    still, changing, changes = ([each[name] for each in rig.joined] for name in ("still", "changing", "changes"))
    unit = "flows/CPU s"
    lists = [
        Figure("list and index, beside reading", "CPU s", listed, read, target=Target(_MOST_READS)),
        Figure("until all is listed", "s", wall, target=Target(_MOST_SECONDS)),
        Figure("held then", "MB", resident),
        Figure("held at most", "MB", [p / 1e6 for p in peak], target=Target(_MOST_MB)),
    ]
    what = f"joins under {CHANGES_A_SECOND:,} changes/s, beside joins without"
    joins = [
        Figure(what, unit, changing, still, target=Target(_LEAST_JOINS, at_least=True)),
        Figure("owners of an address changed meanwhile", "changes/s", changes),
    ]
    text = (__doc__ or "").partition("\n\n")[2]
    return [Table("100,000 pods, 5,000 nodes and 2,000 services", text, [*lists, *joins])]


if __name__ == "__main__":
    sys.exit(report.main("index", "The index", measure))
