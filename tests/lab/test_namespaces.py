# SPDX-License-Identifier: Apache-2.0
"""When an IPv6 address can be reached: the kernel is slow to add its route on a busy machine, which is made up here."""

import json
from collections.abc import Iterable

import pytest

from lab.errors import LabError
from lab.network import namespaces

LINES = ["link set eth0 up", "addr add 10.0.0.1/24 dev eth0", "addr add fd42:1:0::1/64 dev eth0 nodad"]
LOCAL = {"dst": "fd42:1::1", "dev": "eth0"}


class Kernel:
    """Answers in place of `ip`; `answers` are the local routes it has, one list a question, the last for good."""

    def __init__(self, *answers: list[dict[str, str]]) -> None:
        self.answers = list(answers)
        self.questions: list[list[str]] = []

    def run(self, argv: Iterable[str], stdin: str = "") -> str:
        command = list(argv)
        if stdin:
            return ""
        self.questions.append(command)
        return json.dumps(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(namespaces, "run", made.run)
    return made


def test_an_address_is_local_when_the_lines_have_run(kernel: Kernel) -> None:
    kernel.answers = [[], [LOCAL | {"dev": "eth1"}], [LOCAL]]
    namespaces.ip_batch(LINES, "node1")
    assert len(kernel.questions) == 3
    assert kernel.questions[0][:3] == ["ip", "-n", "node1"]


def test_what_waits_for_nothing_asks_nothing(kernel: Kernel) -> None:
    namespaces.ip_batch([*LINES[:2], "addr add fd42::1/64 dev eth0"])
    assert kernel.questions == []


def test_an_address_that_never_becomes_local_is_named(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_LOCAL_SECONDS", 0)
    kernel.answers = [[]]
    with pytest.raises(LabError, match=r"fd42:1::1 on eth0: the kernel has no route for it after 0 s"):
        namespaces.ip_batch(LINES)
