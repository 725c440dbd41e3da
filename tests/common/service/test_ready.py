# SPDX-License-Identifier: Apache-2.0
"""No service says that it is ready before it has begun: whoever waits for that would look at nothing yet.

Kafka is not there, so none of them may ever say so; each is asked without pause from the first moment it listens. The
collector's turn is in tests/collector/test_kafka.py.
"""

from pathlib import Path

import pytest

from common.service.health import Health
from tests.support.enricher.processes import topology_file
from tests.support.services import ServiceProcess, eventually, while_running

ABSENT = ["--kafka-bootstrap", "127.0.0.1:1", "--kafka-deadline-seconds", "1"]


def flags(room: str, directory: Path) -> list[str]:
    own = {
        "enricher": ["--topology", str(topology_file(directory))],
        "metrics": ["--state-dir", str(directory / "state")],
        "flowlog": ["--output", str(directory / "out")],
        "audit": [],
    }
    return [*ABSENT, *own[room]]


@pytest.mark.parametrize("room", ["enricher", "metrics", "flowlog", "audit"])
def test_not_ready_from_the_first_answer_on(room: str, tmp_path: Path) -> None:
    said: list[str] = []

    def ask(service: ServiceProcess) -> bool:
        status, body = service.get("/readyz")
        if status:
            assert status == 503, f"ready after {said[-1:]}"
            said.append(body)
        return "Kafka at 127.0.0.1:1" in body

    service = ServiceProcess(["cli", "run", room], flags(room, tmp_path), tmp_path / "log")
    with while_running(service):
        eventually(lambda: ask(service))
        for _ in range(50):
            assert ask(service)
        assert "topics: not looked at yet" in said[-1]
        assert service.terminate() == 0
    assert "ready again" not in (tmp_path / "log").read_text()


def test_only_what_was_logged_is_logged_as_over(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    with caplog.at_level("INFO"):
        health.ready("start")
        health.starting("topics", "not looked at yet")
        health.ready("topics")
        health.ready("kafka")
        assert health.reasons == {}
        assert caplog.messages == []
        health.starting("topics", "not looked at yet")
        health.waiting("topics", "they are not there")
        health.ready("topics")
        health.ready("topics")
    assert caplog.messages == ["not ready: they are not there", "ready again: topics"]
