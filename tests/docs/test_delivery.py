# SPDX-License-Identifier: Apache-2.0
"""docs/delivery.md names tests and scenarios that exist, and docs/security.md one for all that a node can do."""

import ast
import re

import pytest

from tests.support.services import ROOT
from tests.torture.scenarios import PACKETS, SCENARIOS

PAGE = (ROOT / "docs/delivery.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE + SECURITY)))


def test_every_hop_names_some() -> None:
    tables = PAGE.partition("## What is lost")[0].split("\n## ")[1:]
    assert len(tables) == 7
    assert all("`tests/" in table for table in tables)


def test_each_thing_that_a_node_can_do_has_a_test() -> None:
    table = SECURITY.partition("## What a compromised node can do")[2].partition("\nWhat it can still do")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    assert all("`tests/" in row for row in rows)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    found = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert function in found if function else any(each.startswith("test_") for each in found)


def test_named_scenarios_exist() -> None:
    named = set(re.findall(r"`make torture`, \*([^*]+)\*", PAGE))
    assert named
    assert named <= {scenario.name for scenario in SCENARIOS} | PACKETS.keys()
