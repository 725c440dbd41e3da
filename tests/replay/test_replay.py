# SPDX-License-Identifier: Apache-2.0
"""Replay against a real Kafka and a real flow log: the same flows by id, however they are read back."""

from typing import Any

import orjson
import pytest

from replay import replay
from tests.replay.lived import Lived

Run = tuple[int, str, str]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Run the command; return its status, stdout and stderr."""

    def run_(*argv: str) -> Run:
        try:
            status = replay.main(list(argv))
        except SystemExit as exit_:
            status = int(str(exit_.code))
        captured = capfdbinary.readouterr()
        return status, captured.out.decode(), captured.err.decode()

    return run_


def lines(text: str) -> dict[str, dict[str, Any]]:
    rows = [orjson.loads(line) for line in text.splitlines()]
    assert len({row["id"] for row in rows}) == len(rows), "a flow came twice"
    return {row["id"]: row for row in rows}


@pytest.mark.parametrize("how", ["topic", "archive", "raw"])
def test_the_same_flows_however_they_are_read(history: Lived, run: Any, how: str) -> None:
    flags = {
        "topic": [],
        "archive": ["--archive", str(history.archive)],
        "raw": ["--from-raw", "--cidr-map", str(history.cidrs)],
    }[how]
    status, out, _ = run(*history.flags, *history.span, *flags, "-o", "jsonl")
    assert status == 0
    found = lines(out)
    assert found.keys() == history.flows.keys()
    assert len(found) > 500
    for id_, flow in history.flows.items():
        row = found[id_]
        assert (row["bytes"], row["packets"], row["scope"]) == (flow["bytes"], flow["packets"], flow["scope"])
        assert row["raw_offset"] == flow["raw"]["offset"]
        for side, end in (("src", flow["source"]), ("dst", flow["destination"])):
            assert row[f"{side}_kind"] == end["kind"]
            assert row.get(f"{side}_pod") == end.get("k8s", {}).get("pod", {}).get("name")
            assert row.get(f"{side}_zone") == end.get("cloud", {}).get("availability_zone")
