# SPDX-License-Identifier: Apache-2.0
"""The tests' services are forked off one process: what they import may hold no memory that forks have in common."""

import subprocess
import sys

from tests.support.forked import SERVICES
from tests.support.services import ROOT

SHARED = f"""
import {", ".join(SERVICES)}
for line in open("/proc/self/maps"):
    if line.split()[1].startswith("rw") and line.split()[1].endswith("s"): print(line, end="")
"""


def test_what_services_import_shares_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == ""
