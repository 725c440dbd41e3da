# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in the middle of a bill that takes seconds to read."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from common.errors import Refusal
from history.read import interrupts
from tests.support.services import ROOT, eventually

_LINES = 2_000_000
_COLUMNS = """
    'i' AS bill_invoice_id, '1' AS line_item_usage_account_id, 'Usage' AS line_item_line_item_type,
    '2026-11-01T00:00:00Z' AS line_item_usage_start_date, '2026-11-01T01:00:00Z' AS line_item_usage_end_date,
    'DataTransfer-Regional-Bytes' AS line_item_usage_type, 'InterZone-Out' AS line_item_operation,
    'i-' || n AS line_item_resource_id, n / 1e6 AS line_item_usage_amount, 'USD' AS line_item_currency_code,
    0.1 AS line_item_unblended_cost
"""


def test_ctrl_c_ends_it_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path, spill = tmp_path / "cur.csv", tmp_path / "spill"
    spill.mkdir()
    with duckdb.connect() as database:
        database.execute(f"COPY (SELECT {_COLUMNS} FROM range({_LINES}) AS t(n)) TO '{path}' (FORMAT csv, HEADER)")
    command = [sys.executable, "-m", "cli", "bill", *[str(path)] * 4, "--kafka-bootstrap", "127.0.0.1:1"]
    environment = os.environ | {"TMPDIR": str(spill)}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=environment) as process:
        eventually(lambda: list(spill.iterdir()) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, b"zonemeter bill: interrupted\n")
    assert list(spill.iterdir()) == []


@pytest.mark.parametrize("then", [None, Refusal("cannot be read"), RuntimeError("Query interrupted")], ids=repr)
def test_an_interrupt_that_is_swallowed_is_not_lost(then: Exception | None) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts.kept():
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        if then is not None:
            raise then
    assert signal.getsignal(signal.SIGINT) == before


def test_without_an_interrupt_what_is_raised_stays() -> None:
    with pytest.raises(Refusal), interrupts.kept():
        raise Refusal("cannot be read")
    with interrupts.kept():
        pass


def test_what_a_database_raises_when_it_is_interrupted_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.of_database():
        raise RuntimeError("Query interrupted")
    with pytest.raises(RuntimeError, match="else"), interrupts.of_database():
        raise RuntimeError("something else")
