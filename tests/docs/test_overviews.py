# SPDX-License-Identifier: Apache-2.0
"""README, CONTRIBUTING, the operations and architecture pages list everything: pages, commands, make targets, rooms."""

import json
import re
import subprocess
from typing import get_args

from audit.books import SINKS
from cli.main import COMMANDS
from common.settings import SERVICES
from history.audit.text import HOP_TITLES
from schemas.ledger import Hop
from tests.docs.printed.commands import ROOT

# Those in the ledger that come before the sinks.
NO_SINKS = {"collector", "enricher"}
# Folders that are no part of the pipeline, and which a reader finds by their names.
NOT_ROOMS = {"LICENSES", "docs", "scripts", "tests"}


def test_the_operations_page_names_every_command() -> None:
    rows = "\n".join(
        line for line in (ROOT / "docs/operations.md").read_text().splitlines() if line.startswith("| `zonemeter ")
    )
    named = re.findall(r"`zonemeter ([a-z -]+)", rows)
    missing = [words for words in COMMANDS if not any(tuple(text.split())[: len(words)] == words for text in named)]
    assert missing == []


def test_the_readme_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_contributing_names_every_make_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    (benches,) = re.findall(r"^BENCHES := (.*)$", makefile, re.MULTILINE)
    targets |= {f"bench-{name}" for name in benches.split()}
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(targets) > 10
    assert sorted(target for target in targets if not re.search(rf"`make {target}[`;]", page)) == []


def test_every_sink_is_named_wherever_sinks_are_listed() -> None:
    sinks = {path.parent.name for path in (ROOT / "sinks").glob("*/main.py")}
    schema = json.loads((ROOT / "schemas/ledger.v1.schema.json").read_text())
    assert len(sinks) > 1
    assert set(SINKS) == sinks
    assert set(get_args(Hop)) == set(HOP_TITLES) == set(schema["properties"]["hop"]["enum"]) == NO_SINKS | sinks
    assert {service for service in sinks if service not in SERVICES or ("run", service) not in COMMANDS} == set()


def test_the_architecture_names_every_room() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rooms = {path.split("/")[0] for path in listed.splitlines() if "/" in path and path[0] != "."} - NOT_ROOMS
    table = [line for line in (ROOT / "docs/architecture.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rooms) > 10
    assert sorted(room for room in rooms if not any(f"`{room}/`" in line for line in table)) == []
