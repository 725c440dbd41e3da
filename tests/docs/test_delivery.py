# SPDX-License-Identifier: Apache-2.0
"""docs/delivery.md names tests and scenarios that exist."""

import ast
import re

import pytest

from tests.services import ROOT
from tests.torture.scenarios import PACKETS, SCENARIOS

PAGE = (ROOT / "docs/delivery.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE)))


def test_every_hop_names_some() -> None:
    tables = PAGE.partition("## What is lost")[0].split("\n## ")[1:]
    assert len(tables) == 6
    assert all("`tests/" in table for table in tables)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    found = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert function in found if function else any(each.startswith("test_") for each in found)


def test_named_scenarios_exist() -> None:
    named = set(re.findall(r"`make torture`, \*([^*]+)\*", PAGE))
    assert named
    assert named <= {scenario.name for scenario in SCENARIOS} | PACKETS.keys()
