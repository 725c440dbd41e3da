# SPDX-License-Identifier: Apache-2.0
"""The files that the documents name are there, and every helper of the tests stands in their list."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
_FILE = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_]+)+\.(?:py|c|h|toml|yaml|json))`")


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    named = set(_FILE.findall((ROOT / page).read_text()))
    assert {name for name in named if name.split("/")[0] in ROOMS and not (ROOT / name).exists()} == set()


def test_the_walks_name_files_of_every_stage() -> None:
    named = {name.split("/")[0] for name in _FILE.findall((ROOT / "docs/architecture.md").read_text())}
    assert {"collector", "enricher", "sinks", "history", "common", "schemas", "prices", "cli"} <= named


def test_every_helper_is_in_the_list() -> None:
    here = ROOT / "tests/support"
    listed = set(re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_]+)?)`", (here / "README.md").read_text()))
    helpers = {str(path.relative_to(here).with_suffix("")) for path in here.rglob("*.py")}
    assert helpers - listed == set()
