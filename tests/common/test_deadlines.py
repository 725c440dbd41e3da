# SPDX-License-Identifier: Apache-2.0
"""No wait for Kafka is without end: read from the source, so that a new one cannot be forgotten.

aiokafka's `stop`, `flush`, `send`, `commit`, `position` and `getmany` may each wait forever. So whatever is awaited of
one of its clients stands within `asyncio.timeout`, or within an `admin_client`, which is one; or in a function that is
called nowhere else. What `common/kafka/clients.py` and `common/kafka/publish.py` do is theirs, and tested by itself.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("audit", "cli", "collector", "common", "doctor", "enricher", "history", "sinks")
BOUNDING = (ROOT / "common/kafka/clients.py", ROOT / "common/kafka/publish.py")
# What clients are called, here and everywhere: a name that is none of these would not be seen.
CLIENTS = {"consumer", "producer", "admin"}
METHODS = {
    name
    for client in (AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient)
    for name, _ in inspect.getmembers(client, inspect.iscoroutinefunction)
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Call:
    """A call: of a client, or of something else. `of` and `within` name what is called, and the function around."""

    place: str
    of: str
    within: str
    of_client: bool
    bounded: bool


def _called(path: Path, call: ast.Call, within: str, bounded: bool) -> Call:
    name = _last(call.func)
    whose = _last(call.func.value).lstrip("_") if isinstance(call.func, ast.Attribute) else ""
    place = f"{path.relative_to(ROOT)}:{call.lineno} {ast.unparse(call.func)}"
    return Call(place, _known_as(path, name), within, whose in CLIENTS and name in METHODS, bounded)


def _known_as(path: Path, name: str) -> str:
    """Return a function's name, with its file's if nobody else may call it."""
    return f"{path}:{name}" if name.startswith("_") else name


def _last(expression: ast.expr) -> str:
    """Return the last name of `a.b.c`."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def _is_bound(node: ast.AST) -> bool:
    return isinstance(node, ast.AsyncWith) and any(
        isinstance(item.context_expr, ast.Call) and _last(item.context_expr.func) in ("timeout", "admin_client")
        for item in node.items
    )


def calls(path: Path, node: ast.AST, within: str = "", bounded: bool = False) -> Iterator[Call]:
    """Yield all that is awaited below `node`."""
    if isinstance(node, Function):
        within, bounded = _known_as(path, node.name), False
    awaited = node.value if isinstance(node, ast.Await) else None
    awaited = node.iter if isinstance(node, ast.AsyncFor | ast.comprehension) else awaited
    if isinstance(awaited, ast.Call):
        yield _called(path, awaited, within, bounded)
    for child in ast.iter_child_nodes(node):
        yield from calls(path, child, within, bounded or _is_bound(node))


def test_whatever_is_asked_of_kafka_has_a_deadline() -> None:
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path not in BOUNDING]
    found = [call for path in sources for call in calls(path, ast.parse(path.read_text()))]
    callers: dict[str, list[Call]] = {}
    for call in found:
        callers.setdefault(call.of, []).append(call)

    def is_bounded(call: Call, seen: frozenset[str] = frozenset()) -> bool:
        # A function that calls itself is bounded if all others that call it are.
        if call.bounded or call.within in seen:
            return True
        outer = callers.get(call.within, [])
        return bool(outer) and all(is_bounded(each, seen | {call.within}) for each in outer)

    of_clients = [call for call in found if call.of_client]
    assert len(of_clients) > 30, "are clients called by other names now?"
    unbounded = [call.place for call in of_clients if not is_bounded(call)]
    assert not unbounded, "\n".join(unbounded)
