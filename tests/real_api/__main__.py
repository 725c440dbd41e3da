# SPDX-License-Identifier: Apache-2.0
"""`make real-api`: a real kube-apiserver in place of the lab's, built once from its Go modules (some ten minutes).

It is given every manifest, a release of the chart and every change that `advise` prints, and the enricher follows it
while a cluster changes.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import terminal
from tests.real_api import advice, following, releases
from tests.support.kubernetes.api_server import api_server
from tests.support.kubernetes.programs import API_SERVER, build


def main() -> int:
    """Run all of it; return the exit status."""
    try:
        build(API_SERVER)
        with tempfile.TemporaryDirectory(prefix="zonemeter-real-api-") as made, api_server(Path(made)) as server:
            terminal.say(f"kube-apiserver {json.loads(server.kubectl('get', '--raw', '/version'))['gitVersion']}")
            for what, check in (
                ("manifests", advice.overlays),
                ("chart", releases.release),
                ("advice", advice.advice),
                ("enricher", following.follow),
            ):
                for line in check(server):
                    terminal.say(f"{what}: {line}")
    except (AssertionError, RuntimeError, subprocess.CalledProcessError) as error:
        terminal.complain(f"real-api: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
