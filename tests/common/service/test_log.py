# SPDX-License-Identifier: Apache-2.0
import json
import logging

import pytest

from common.service.log import JsonFormatter, Sparing


def record(name: str, template: str, at: float) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": name, "msg": template, "args": (at,)})
    made.created = at
    return made


@pytest.mark.parametrize(
    ("second", "logged"),
    [
        pytest.param(record("aiokafka.fetcher", "failed: %s", 10.0), False, id="the same within a minute"),
        pytest.param(record("aiokafka.fetcher", "failed: %s", 61.0), True, id="the same after a minute"),
        pytest.param(record("aiokafka.fetcher", "other: %s", 10.0), True, id="another complaint"),
        pytest.param(record("aiokafka.sender", "failed: %s", 10.0), True, id="of another part"),
        pytest.param(record("enricher.delivery.worker", "failed: %s", 10.0), True, id="our own"),
    ],
)
def test_a_librarys_complaint_is_logged_once_a_minute(second: logging.LogRecord, logged: bool) -> None:
    sparing = Sparing()
    assert sparing.filter(record("aiokafka.fetcher", "failed: %s", 0.0))
    sparing.filter(record("enricher.delivery.worker", "failed: %s", 0.0))
    assert sparing.filter(second) is logged


def test_nothing_that_a_terminal_obeys_gets_into_a_line() -> None:
    line = JsonFormatter().format(logging.LogRecord("x", logging.INFO, "", 0, "of %s", ("\x1b[2J\x9b\u202e",), None))
    assert line.isascii()
    assert json.loads(line)["message"] == "of \x1b[2J\x9b\u202e"
