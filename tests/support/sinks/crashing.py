# SPDX-License-Identifier: Apache-2.0
"""A sink that kills itself (SIGKILL) at a named point: python -m tests.support.sinks.crashing ROOM POINT:N FLAGS...

The N-th time that the point is reached. The points stand around the steps of a checkpoint or a manifest; the
product has no hooks for this, its functions are wrapped from outside.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from common.kafka.publish import Record

POINTS = {
    "before-letters": ("sinks.deliveries:Deliveries", "deliver", "before", "dead-letter.v1"),
    "after-letters": ("sinks.deliveries:Deliveries", "deliver", "after", "dead-letter.v1"),
    "before-ledger": ("sinks.deliveries:Deliveries", "deliver", "before", "ledger.v1"),
    "after-ledger": ("sinks.deliveries:Deliveries", "deliver", "after", "ledger.v1"),
    "before-group-commit": ("sinks.kafka_io", "commit", "before", None),
    "after-group-commit": ("sinks.kafka_io", "commit", "after", None),
    "before-checkpoint": ("sinks.metrics.checkpoint:State", "commit", "before", None),
    "within-checkpoint": ("sinks.metrics.checkpoint:State", "_write", "after", None),
    "after-checkpoint": ("sinks.metrics.checkpoint:State", "commit", "after", None),
    "before-intent": ("sinks.flowlog.archive.archive:Archive", "_write_intent", "before", None),
    "after-intent": ("sinks.flowlog.archive.archive:Archive", "_write_intent", "after", None),
    "after-file": ("sinks.flowlog.stores.store:LocalStore", "put", "after", None),
    "within-file": ("pathlib:Path", "replace", "before", None),
    "before-manifest": ("sinks.flowlog.stores.store:LocalStore", "create", "before", None),
    "after-manifest": ("sinks.flowlog.stores.store:LocalStore", "create", "after", None),
}


def die() -> None:
    """End as a kill -9 ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, number: int) -> None:
    """Wrap the function that `point` is about."""
    place, name, when, part = POINTS[point]
    module_name, _, class_name = place.partition(":")
    __import__(module_name)
    owner: Any = sys.modules[module_name]
    owner = getattr(owner, class_name) if class_name else owner
    setattr(owner, name, _wrapped(getattr(owner, name), when, part, number))


def _wrapped(function: Callable[..., Any], when: str, part: str | None, number: int) -> Callable[..., Any]:
    left = number

    def reached(arguments: tuple[Any, ...], now: str) -> None:
        nonlocal left
        if now == when and (part is None or part in _topic_of(arguments[-1])):
            left -= 1
            if left == 0:
                die()

    @wraps(function)
    def plain(*arguments: Any, **named: Any) -> Any:
        reached(arguments, "before")
        result = function(*arguments, **named)
        reached(arguments, "after")
        return result

    @wraps(function)
    async def awaited(*arguments: Any, **named: Any) -> Any:
        reached(arguments, "before")
        result = await function(*arguments, **named)
        reached(arguments, "after")
        return result

    return awaited if asyncio.iscoroutinefunction(function) else plain


def _topic_of(records: Mapping[Any, Sequence[Record]]) -> str:
    """Return the topic to which records go; there may be none."""
    return next((record.topic for each in records.values() for record in each), "")


if __name__ == "__main__":
    room, (at, _, nth), *flags = sys.argv[1], sys.argv[2].partition(":"), *sys.argv[3:]
    arm(at, int(nth))
    main_module = __import__(f"sinks.{room}.main", fromlist=["main"])
    sys.exit(main_module.main(flags))
