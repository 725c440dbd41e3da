# SPDX-License-Identifier: Apache-2.0
"""No value of any flag, variable, key or file ends a command with a traceback, or without a line that names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(400)  # a matter of CPU time, and machines are shared
def test_whatever_is_given_is_taken_or_refused_in_one_line(tmp_path: Path) -> None:
    # In a process of its own: a case may change signal handlers, logging and open files.
    command = [sys.executable, "-m", "tests.support.cli.fuzz", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "TERM": "dumb"})
    *wrong, last = map(json.loads, done.stdout.splitlines())
    assert wrong == []
    assert done.returncode == 0, done.stderr
    assert last["cases"] > 500, "the settings classes have more to try"
