# SPDX-License-Identifier: Apache-2.0
"""The flags with their values, the variables and the TOML that the documents show, beside whole commands, are taken."""

import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from cli.main import COMMANDS
from common.settings import ENV_PREFIX, load
from enricher.index.cidrs import read_cidr_map
from sinks.flowlog.settings import FlowlogSettings
from tests.docs.printed.commands import DOCUMENTS, ROOT
from tests.support.settings_reference import Reads, what_it_reads

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# Docker's, Helm's, and those of Kafka's own tools.
FOREIGN = {
    "--build-arg",
    "--profile",
    "--under-min-isr-partitions",
    "--unavailable-partitions",
    "--print-config",
    "--config",
    "--force-conflicts",
    "--reuse-values",
    "--reset-then-reuse-values",
    "--help",
}
SPANS = sorted(
    {
        (code, document.name)
        for document in DOCUMENTS
        for code in re.findall(r"`([^`]+)`", _BLOCK.sub("", document.read_text()))
        if re.match(r"--[a-z]", code)
    }
)


@cache
def reads() -> dict[tuple[str, ...], Reads]:
    """Return what each command reads."""
    return {words: what_it_reads(words, command) for words, command in COMMANDS.items()}


def block(page: str, containing: str) -> str:
    """Return the one block of TOML of a page that has this in it."""
    blocks = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    [found] = [each for each in blocks if containing in each]
    return str(found)


@pytest.mark.parametrize(("code", "page"), SPANS, ids=str)
def test_a_flag_is_some_commands_and_takes_that_value(code: str, page: str) -> None:
    words = [word.replace("$(HOST_IP)", "::1" if "[" in word else "192.0.2.1") for word in shlex.split(code)]
    flag = words[0].partition("=")[0]
    if flag in FOREIGN:
        return
    who = [
        command for command, its in reads().items() if any(flag in each.option_strings for each in its.parser._actions)
    ]
    assert who, page
    if words == [flag] or re.search(r"[A-Z]{3}|\|", code):
        return
    assert any(takes(command, words) for command in who), page


def takes(command: tuple[str, ...], flags: list[str]) -> bool:
    """Return whether a command would start with these flags, and what else it must be given."""
    module, _, name = COMMANDS[command].target.partition(":")
    needed = {"collector": ["--node=n"], "flowlog": ["--output=o"]}.get(command[-1], [])
    needed = [each for each in needed if each.partition("=")[0] not in {flag.partition("=")[0] for flag in flags}]
    with pytest.raises(SystemExit) as caught:
        getattr(importlib.import_module(module), name)([*needed, *flags, "--print-config"])
    return caught.value.code == 0


def test_a_variable_is_some_commands_or_composes() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    fields = {name for each in reads().values() if each.settings for name in each.settings.model_fields}
    for page in DOCUMENTS:
        for name in re.findall(r"\bZONEMETER_[A-Z_]*[A-Z]\b", page.read_text()):
            assert name.removeprefix(ENV_PREFIX).lower() in fields or re.search(rf"{{{name}:-|{name}:", compose), (
                page.name,
                name,
            )


def test_the_example_of_a_settings_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "zonemeter.toml"
    file.write_text(block("settings.md", "[flowlog]"))
    settings = load(FlowlogSettings, "run flowlog", ["--config", str(file)])
    assert (settings.cluster, settings.output) == ("prod-eu", "s3://traffic/zonemeter")


def test_the_example_of_a_password_is_taken(tmp_path: Path) -> None:
    text = block("security.md", "SCRAM")
    for name in re.findall(r'_file = "(.*?)"', text):
        (tmp_path / Path(name).name).write_text("secret")
        text = text.replace(name, str(tmp_path / Path(name).name))
    (tmp_path / "zonemeter.toml").write_text(text)
    settings = load(FlowlogSettings, "run flowlog", ["--config", str(tmp_path / "zonemeter.toml"), "--output", "o"])
    assert (settings.kafka_sasl_username, settings.kafka_security_protocol) == ("zonemeter-enricher", "SASL_SSL")


def test_the_example_of_a_cidr_map_is_one() -> None:
    read_cidr_map(block("operations.md", "[[cidr]]").encode(), "cidrs.toml")
