# SPDX-License-Identifier: Apache-2.0
"""Ports that several processes are given side by side."""

import subprocess
import sys

import pytest

from lab.kafka import broker
from tests.support.services import ROOT

_TAKE = "from lab.kafka import broker; broker._PORTS = range({0}, {1}); print([broker.free_port() for _ in range(4)])"


def test_no_two_processes_are_given_the_same_port_before_either_listens_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    few = range(14_900, 14_908)
    monkeypatch.setattr(broker, "_PORTS", few)
    here = {broker.free_port() for _ in range(4)}
    ask = [sys.executable, "-c", _TAKE.format(few.start, few.stop)]
    there = subprocess.run(ask, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert there.strip() != ""
    assert here | set(map(int, there.strip(" []\n").split(", "))) == set(few)
