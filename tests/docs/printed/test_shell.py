# SPDX-License-Identifier: Apache-2.0
"""The shell lines that the documents print, beside zonemeter's own commands: what they name is there.

Each program has a check of its own; a line that begins with another has none, and fails.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from schemas.topics import TopicNames, topic_specs
from tests.compose.test_images import COMPOSE, DOCKERFILE
from tests.docs.printed.commands import DOCUMENTS, ROOT
from tests.k8s.rendered import CHART, chart, find, render

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# No command: a picture, a directory's contents, an id.
_NO_COMMAND = re.compile(r"-->|^/var/lib/zonemeter/flowlog/$|^cluster / node", re.MULTILINE)
_BEHIND = re.compile(r"\s{2,}#.*$|\s#\s.*$")
MAKEFILE = (ROOT / "Makefile").read_text()
KINDS = {"deploy": "Deployment", "ds": "DaemonSet", "sts": "StatefulSet", "svc": "Service"}


@dataclass(frozen=True)
class Line:
    """One command, and where it is printed."""

    words: tuple[str, ...]
    place: str

    @property
    def program(self) -> str:
        """Its name; variables that are set before it are not."""
        return next(word for word in self.words if not re.match(r"[A-Z_]+=", word))


def printed_lines() -> Iterator[Line]:
    for document in DOCUMENTS:
        text = document.read_text()
        for block in _BLOCK.finditer(text):
            if not block[2] and not _NO_COMMAND.search(block[3]):
                # A line goes on after a \, and within quotes.
                for line in re.sub(r"\\\n|\n(?=[^']*'(?:[^']*'[^']*')*[^']*\Z)", " ", block[3]).splitlines():
                    yield from commands(line, document.name)
        for code in re.findall(r"`([^`]+)`", _BLOCK.sub("", text)):
            if code.split()[0] in CHECKS and " " in code and "..." not in code:
                yield from commands(code, document.name)


def commands(line: str, place: str) -> Iterator[Line]:
    """Split a line at && and |; what comes behind a # is for the reader."""
    lexer = shlex.shlex(_BEHIND.sub("", line), posix=True, punctuation_chars="&|>")
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word not in ("&&", "|"):
            words.append(word)
        elif words:
            yield Line(tuple(words), place)
            words = []


def kubectl(words: list[str]) -> None:
    if "-k" in words:
        where = words[words.index("-k") + 1 :]
        assert not where or render(where[0].removeprefix("k8s/"))
        return
    namespace = words[words.index("-n") + 1] if "-n" in words else None
    if namespace:
        assert find("trial", "Namespace", namespace)
    for kind, name in (word.split("/", 1) for word in words if re.fullmatch(r"[a-z]+/[a-z-]+", word)):
        named = {each.lower(): each for each in ("Deployment", "DaemonSet", "StatefulSet")} | KINDS
        found = find("trial", named[kind], name, namespace)
        if kind == "svc":
            assert int(words[-1]) in [port["port"] for port in found["spec"]["ports"]]
    if "-l" in words:
        key, _, value = words[words.index("-l") + 1].partition("=")
        labels = [
            each["spec"]["template"]["metadata"]["labels"] for each in render("trial") if "template" in spec(each)
        ]
        assert value in {each.get(key) for each in labels}


def spec(each: dict[str, Any]) -> dict[str, Any]:
    return each.get("spec") or {}


def helm(words: list[str]) -> None:
    verb, *rest = words[1:]
    assert verb in ("install", "upgrade", "rollback", "test", "uninstall")
    if not rest:
        return
    assert rest.pop(0) == "zonemeter"
    if verb in ("rollback", "test", "uninstall"):
        assert rest[:2] == ["-n", "zonemeter"]
        return
    assert ROOT / rest[0] == CHART
    # The reader's own file: tests/k8s/test_chart.py renders what the page shows of it.
    options = [pair for pair in pairwise(rest) if pair[0] in ("-f", "--set")]
    assert chart(*(word for pair in options if pair[1] != "mine.yaml" for word in pair))


def docker(words: list[str]) -> None:
    if words == ["docker", "build"]:
        return
    if words[1] == "build":
        target, tag = words[words.index("--target") + 1], words[words.index("-t") + 1]
        assert f"--target {target} -t {tag} ." in DOCKERFILE
    else:
        compose(words[1:])


def compose(words: list[str]) -> None:
    profiles = {profile for service in COMPOSE.values() for profile in service.get("profiles", [])}
    assert {words[at + 1] for at, word in enumerate(words) if word == "--profile"} <= profiles
    asked = [word for word in words if word in ("up", "stop", "down", "restart", "run", "exec")]
    assert len(asked) == 1
    behind = [word for word in words[words.index(asked[0]) + 1 :] if not word.startswith("-") and word != "ls"]
    services = behind[:1] if asked[0] in ("run", "exec") else behind
    assert set(services) <= set(COMPOSE)


def make(words: list[str]) -> None:
    (benches,) = re.findall(r"^BENCHES := (.*)$", MAKEFILE, re.MULTILINE)
    targets = {*re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.MULTILINE), "bench-NAME"}
    targets |= {f"bench-{name}" for name in benches.split()}
    for word in words[1:]:
        variable, is_variable, _ = word.partition("=")
        assert f"$({variable})" in MAKEFILE if is_variable else word in targets, word


def kcat(words: list[str]) -> None:
    assert words[words.index("-t") + 1] in {each.name for each in topic_specs(TopicNames())}
    assert words[words.index("-b") + 1] == "127.0.0.1:9092"


def curl(words: list[str]) -> None:
    host, path = words[-1].split("/")
    assert path in ("metrics", "readyz")
    assert host in ("HOST:PORT", "127.0.0.1:9464")


def ours(words: list[str]) -> None:
    path = ROOT / words[0]
    assert os.access(path, os.X_OK)
    assert all(re.search(rf"\b{word}\b", path.read_text()) for word in words[1:])


def rules(words: list[str]) -> None:
    assert words[:3] == ["promtool", "test", "rules"]
    assert list(ROOT.glob(words[3]))


def images(words: list[str]) -> None:
    assert words[1:3] == ["load", "docker-image"]
    assert all(f"-t {tag} ." in DOCKERFILE for tag in words[3:])


def anything(_: list[str]) -> None:
    """Take it: a program that knows nothing of zonemeter."""


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "kubectl": kubectl,
    "helm": helm,
    "docker": docker,
    "docker-compose": compose,
    "make": make,
    "kcat": kcat,
    "curl": curl,
    "promtool": rules,
    "kind": images,
    "scripts/compose-test": ours,
    "scripts/other-kernels": ours,
    "images/base": ours,
    **dict.fromkeys(("jq", "sort", "head", "grep", "sleep", "zcat", "eval", "pip", "aws", "gcloud", "az"), anything),
    # tests/docs/printed/test_commands.py has them.
    **dict.fromkeys(("zonemeter", ".venv/bin/zonemeter"), anything),
}
LINES = list(dict.fromkeys(printed_lines()))


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.place} {' '.join(line.words)}")
def test_what_a_line_names_is_there(line: Line) -> None:
    assert line.program in CHECKS, "no check for it"
    words = list(line.words)[line.words.index(line.program) :]
    if "--" in words:
        words = words[: words.index("--")]
    CHECKS[line.program](words)


def test_lines_are_found() -> None:
    assert {"kubectl", "docker", "make", "kcat", "curl", "images/base"} <= {line.program for line in LINES}
