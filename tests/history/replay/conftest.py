# SPDX-License-Identifier: Apache-2.0
"""The command that this package is."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from history.replay import command as replay
from tests.history.conftest import Command, Ran

Run = Callable[..., Ran]


def lines(text: str) -> dict[str, dict[str, Any]]:
    rows = [orjson.loads(line) for line in text.splitlines()]
    assert len({row["id"] for row in rows}) == len(rows), "a flow came twice"
    return {row["id"]: row for row in rows}


@pytest.fixture
def run(command: Command) -> Run:
    """Run `zonemeter replay`."""
    return lambda *argv: command(replay.main, *argv)
