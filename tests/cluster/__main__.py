# SPDX-License-Identifier: Apache-2.0
"""`make cluster-test`: a real Kubernetes cluster on this machine; a table of what was compared at the end.

zonemeter is installed, meters traffic that the wire counts, too, lives through kills, and is taken away again. Exit
status 1 if anything was not as expected. --keep leaves the cluster there; --only NAME does some parts.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from common import terminal
from tests.cluster import installed, kills, traffic, upgrade
from tests.cluster.cluster import Cluster, install_packages
from tests.cluster.network import VARIATION, VARIATIONS
from tests.cluster.table import Table
from tests.support.kubernetes.programs import CLUSTER, build

PARTS: dict[str, Callable[[Cluster, Table], None]] = {
    "install by the chart": installed.chart,
    "traffic": traffic.metered,
    "kills": kills.kills,
    "upgrade": upgrade.upgrade,
    "uninstall the chart": installed.chart_away,
    "install k8s/trial": installed.kustomize,
    "uninstall k8s/trial": installed.kustomize_away,
}


def main() -> int:
    """Run what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="make cluster-test", description=__doc__)
    parser.add_argument(
        "--only", default="", help=f"parts of a part's name, several: a|b; there are: {', '.join(PARTS)}"
    )
    parser.add_argument("--keep", action="store_true", help="leave the cluster there; the next run takes it away")
    asked = parser.parse_args()
    if unknown := set(VARIATION) - set(VARIATIONS):
        parser.error(f"VARIATION={','.join(VARIATION)}: no {unknown.pop()}; there are: {', '.join(VARIATIONS)}")
    if os.geteuid() != 0:
        terminal.complain("cluster-test: must run as root: it makes namespaces and mounts")
        return 2
    chosen = [name for name in PARTS if any(word in name for word in asked.only.split("|"))]
    if not chosen:
        parser.error(f"--only {asked.only}: there is none; there are: {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    with socket.socket(socket.AF_UNIX) as taken:
        try:
            taken.bind("\0zonemeter-cluster-test")
        except OSError:
            terminal.complain("cluster-test: another one runs on this machine")
            return 2
        return run(chosen, asked.keep)


def run(chosen: list[str], keep: bool) -> int:
    """Do these parts; return the exit status."""
    cluster, table, begun = Cluster(), Table(), time.monotonic()
    try:
        with table.part(" ".join(("cluster-test", *VARIATION))):
            install_packages()
            build(CLUSTER)
            cluster.up()
            for name in chosen:
                with table.part(name):
                    PARTS[name](cluster, table)
    finally:
        if keep:
            terminal.complain(cluster.kubectl)
        else:
            cluster.down()
    terminal.say(*table.lines())
    terminal.say(f"cluster-test: {'ok' if table.ok else 'FAILED'}, {time.monotonic() - begun:.0f} s")
    return 0 if table.ok else 1


if __name__ == "__main__":
    sys.exit(main())
