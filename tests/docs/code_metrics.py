# SPDX-License-Identifier: Apache-2.0
"""The metrics that the code can export, read from its syntax: whatever nobody wrote down is found here."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("audit", "collector", "common", "doctor", "enricher", "history", "sinks", "cli")
# What stands in a name for a part that is put in when the code runs.
WORD = "[a-z]+"
KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "Summary": "summary", "Info": "info"}


@dataclass(frozen=True)
class CodeMetric:
    """A metric as it stands in the code. `name` is a pattern; `labels` None where the syntax does not tell."""

    name: str
    kind: str
    labels: tuple[str, ...] | None
    place: str

    def fits(self, name: str) -> bool:
        """Return whether an exported name is of this metric."""
        return re.fullmatch(self.name, name) is not None


@lru_cache(maxsize=1)
def code_metrics() -> list[CodeMetric]:
    """Return all metrics of all rooms."""
    found: list[CodeMetric] = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            found += _Module(path).metrics()
    return found


class _Module:
    """One source file."""

    def __init__(self, path: Path) -> None:
        self._place = str(path.relative_to(ROOT))
        self._tree = ast.parse(path.read_text())
        self._constants = {
            target.id: node.value
            for node in self._tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self._client = {
            alias.asname or alias.name
            for node in ast.walk(self._tree)
            if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
            for alias in node.names
        }

    def metrics(self) -> Iterator[CodeMetric]:
        helpers = {node.name: node for node in ast.walk(self._tree) if isinstance(node, ast.FunctionDef)}
        makers = {name: made for name, helper in helpers.items() if (made := self._maker(helper))}
        inside = {id(call) for _, call in makers.values()}
        for node in ast.walk(self._tree):
            if not isinstance(node, ast.Call) or id(node) in inside:
                continue
            name = _called(node)
            if name in makers:
                kind, maker = makers[name]
                yield self._metric(kind, self._filled(maker, node), self._labels(node.args[2:]), node)
            elif name in KINDS and name in self._client:
                yield self._metric(KINDS[name], self._text(node.args[0]), self._labels(_label_argument(node)), node)
            elif name == "Spec":
                yield self._metric("counter", self._text(node.args[0]), self._labels([node.args[2]]), node)
            elif name == "header" and isinstance(node.args[0], ast.Constant):
                yield self._metric(str(_constant(node.args[2])), self._text(node.args[0]), None, node)

    def _metric(self, kind: str, name: str, labels: tuple[str, ...] | None, node: ast.Call) -> CodeMetric:
        suffix = "_total" if kind == "counter" and not name.endswith("_total") else ""
        return CodeMetric(name + suffix, kind, labels, f"{self._place}:{node.lineno}")

    def _maker(self, function: ast.FunctionDef) -> tuple[str, ast.Call] | None:
        """Return what a helper makes: `def counter(name, text, *labels): return Counter(f"prefix_{name}", ...)`."""
        for node in ast.walk(function):
            made = node.value if isinstance(node, ast.Return) else None
            if isinstance(made, ast.Call) and _called(made) in self._client & KINDS.keys():
                return KINDS[_called(made)], made
        return None

    def _filled(self, made: ast.Call, call: ast.Call) -> str:
        return self._text(made.args[0]).replace(WORD, str(_constant(call.args[0])))

    def _text(self, node: ast.expr) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else WORD for part in node.values)
        return re.escape(str(_constant(self._constants.get(node.id, node) if isinstance(node, ast.Name) else node)))

    def _labels(self, nodes: list[ast.expr]) -> tuple[str, ...] | None:
        labels: list[str] = []
        for node in nodes:
            value = node.value if isinstance(node, ast.Starred) else node
            if isinstance(value, ast.Name):
                value = self._constants.get(value.id, value)
            if isinstance(value, ast.Tuple | ast.List):
                labels += [str(_constant(each)) for each in value.elts]
            elif isinstance(value, ast.Constant):
                labels.append(str(value.value))
            else:
                return None
        return tuple(labels)


def _label_argument(node: ast.Call) -> list[ast.expr]:
    named = [keyword.value for keyword in node.keywords if keyword.arg == "labelnames"]
    return named or node.args[2:3]


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _constant(node: ast.expr) -> object:
    assert isinstance(node, ast.Constant), f"line {node.lineno}: a metric's name or label that is no constant"
    return node.value
