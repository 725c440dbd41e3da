# SPDX-License-Identifier: Apache-2.0
"""What /metrics shows: the last durable checkpoint, never newer values. Prometheus text format 0.0.4, by hand.

The client library takes seconds for 100,000 series; joining label strings that were rendered once takes a tenth.
"""

import threading
from collections.abc import Iterable, Mapping
from decimal import Context, Decimal

from schemas.ids import Origin
from sinks.intake import MARK_KEPT_MS, FlowMark
from sinks.metrics.families import Sample, Spec

# Enough digits for any counter of money; the default context rounds to 28.
EXACT = Context(prec=100)
# Of which is known when they sent last.
MAX_NODES = 20_000
NODES_HELP = "Nodes by whether flows of theirs have come lately."


def escape_label(value: str) -> str:
    """Escape a label's value: backslash, double quote and line feed."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def sample_prefix(spec: Spec, labels: tuple[str, ...]) -> str:
    """Return a sample's line up to its value."""
    pairs = [f'{name}="{escape_label(value)}"' for name, value in zip(spec.labels, labels, strict=True)]
    return f"{spec.name}{{{','.join(pairs)}}} "


def header(name: str, text: str, kind: str) -> str:
    """Return the HELP and TYPE lines of a family."""
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {escaped}\n# TYPE {name} {kind}\n"


def _fractions(values: Mapping[int, int], digits: int) -> dict[int, float]:
    """Return the values as Prometheus reads them, which is as doubles; rounding keeps their order, so none falls."""
    return {number: float(Decimal(value).scaleb(-digits, EXACT)) for number, value in values.items()}


class Exposition:
    """Values as of the last checkpoint. Written by the thread that made it durable, read by the one that renders."""

    def __init__(self, specs: Iterable[Spec], silent_after_ms: int) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._silent_after_ms = silent_after_ms
        self._lock = threading.Lock()
        self._prefixes: dict[int, str] = {}
        self._values: dict[str, dict[int, int]] = {name: {} for name in self._specs}
        self._nodes: dict[tuple[str, str], int] = {}
        self._body: bytes | None = None

    def apply(
        self, series: Iterable[Sample], marks: Iterable[tuple[Origin, FlowMark]], removed: Iterable[int] = ()
    ) -> None:
        """Take over what a checkpoint changed, all at once; of families that are switched off, nothing."""
        with self._lock:
            for sample in series:
                if sample.family not in self._specs:
                    continue
                if not sample.served:
                    self._drop(sample.number)
                    continue
                if sample.number not in self._prefixes:
                    self._prefixes[sample.number] = sample_prefix(self._specs[sample.family], sample.labels)
                self._values[sample.family][sample.number] = sample.value
            for number in removed:
                self._drop(number)
            for origin, mark in marks:
                node = origin.cluster, origin.node
                # To the end: who was heard of last.
                self._nodes[node] = max(self._nodes.pop(node, 0), mark.seen_ms)
            while len(self._nodes) > MAX_NODES:
                del self._nodes[next(iter(self._nodes))]
            self._body = None

    def series_counts(self) -> dict[str, int]:
        """Return the number of series of each family."""
        with self._lock:
            return {name: len(values) for name, values in self._values.items()}

    def render(self, now_ms: int) -> bytes:
        """Return the text; the counters' part is kept until the next checkpoint."""
        with self._lock:
            if self._body is None:
                self._body = self._render_counters().encode()
            return self._body + self._render_nodes(now_ms).encode()

    def _drop(self, number: int) -> None:
        self._prefixes.pop(number, None)
        for values in self._values.values():
            values.pop(number, None)

    def _render_counters(self) -> str:
        prefixes = self._prefixes
        parts = []
        for name, values in self._values.items():
            if values:
                parts.append(header(name, self._specs[name].help, "counter"))
                digits = self._specs[name].digits
                shown = _fractions(values, digits) if digits else values
                parts += [f"{prefixes[number]}{value}\n" for number, value in shown.items()]
        return "".join(parts)

    def _render_nodes(self, now_ms: int) -> str:
        self._nodes = {node: end_ms for node, end_ms in self._nodes.items() if now_ms - end_ms <= MARK_KEPT_MS}
        metered = sum(1 for end_ms in self._nodes.values() if now_ms - end_ms <= self._silent_after_ms)
        return (
            header("zonemeter_nodes", NODES_HELP, "gauge")
            + f'zonemeter_nodes{{state="metered"}} {metered}\n'
            + f'zonemeter_nodes{{state="silent"}} {len(self._nodes) - metered}\n'
        )
