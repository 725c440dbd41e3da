# SPDX-License-Identifier: Apache-2.0
"""An enricher with a partition that fails while a file is there: -m tests.support.enricher.failing POINT FILE FLAGS

With POINT-all every partition fails. The product has no hooks for this: its functions are wrapped from outside.
"""

import inspect
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaStorageError, NotEnoughReplicasError

PARTITION = 1

# By name: module, class, function, and what it raises when it is about the partition.
POINTS: dict[str, tuple[str, str, str, Exception]] = {
    "recovery": (
        "enricher.delivery.outgoing.recovery",
        "",
        "not_committed",
        KafkaStorageError("its directory is gone"),
    ),
    "flows": ("common.kafka.publish", "", "_send_batch", NotEnoughReplicasError("one of two")),
    "commit": ("aiokafka", "AIOKafkaConsumer", "commit", TimeoutError()),
    "bug": ("enricher.delivery.worker", "Worker", "_enrich", ZeroDivisionError("a bug")),
}


def arm(point: str, while_there: str, *, everywhere: bool) -> None:
    """Wrap the function that `point` is about; `everywhere`: for all partitions."""
    module_name, class_name, name, error = POINTS[point]
    __import__(module_name)
    owner: Any = sys.modules[module_name]
    owner = getattr(owner, class_name) if class_name else owner
    setattr(owner, name, _wrapped(getattr(owner, name), while_there, error, everywhere))


def _wrapped(function: Callable[..., Any], while_there: str, error: Exception, everywhere: bool) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @wraps(function)
    async def awaited(*arguments: Any, **named: Any) -> Any:
        about_it = everywhere or _is_about(signature.bind(*arguments, **named).arguments)
        if about_it and os.access(while_there, os.F_OK):
            raise error
        return await function(*arguments, **named)

    return awaited


def _is_about(arguments: dict[str, Any]) -> bool:
    """Return whether the arguments name the partition: as such, as a worker's own, or as what is committed."""
    offsets: dict[TopicPartition, Any] = arguments.get("offsets", {})
    worker = getattr(arguments.get("self"), "_partition", None)
    return PARTITION in (arguments.get("partition"), worker, *(where.partition for where in offsets))


if __name__ == "__main__":
    arm(sys.argv[1].removesuffix("-all"), sys.argv[2], everywhere=sys.argv[1].endswith("-all"))
    from enricher.main import main

    sys.exit(main(sys.argv[3:]))
