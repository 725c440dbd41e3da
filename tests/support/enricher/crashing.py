# SPDX-License-Identifier: Apache-2.0
"""An enricher that kills itself (SIGKILL) at a named point: python -m tests.support.enricher.crashing POINT:N FLAGS...

The N-th time that the point is reached; with POINT:N:SIGSTOP it stands still there instead. The product has no hooks
for this: its functions are wrapped from outside.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

POINTS = {
    "before-flows": ("enricher.delivery.outgoing.output", "Output", "_publish_flows", "before"),
    "after-batch": ("common.kafka.publish", "", "_send_batch", "after"),
    "after-flows": ("enricher.delivery.outgoing.output", "Output", "_publish_flows", "after"),
    "before-commit": ("aiokafka", "AIOKafkaConsumer", "commit", "before"),
    "after-commit": ("aiokafka", "AIOKafkaConsumer", "commit", "after"),
}


def arm(point: str, number: int, sent: int = signal.SIGKILL) -> None:
    """Wrap the function that `point` is about."""
    module_name, class_name, name, when = POINTS[point]
    __import__(module_name)
    owner: Any = sys.modules[module_name]
    owner = getattr(owner, class_name) if class_name else owner
    setattr(owner, name, _wrapped(getattr(owner, name), when, number, sent))


def _wrapped(function: Callable[..., Any], when: str, number: int, sent: int) -> Callable[..., Any]:
    left = number

    @wraps(function)
    async def awaited(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), sent)
        result = await function(*arguments, **named)
        if left == 0:
            os.kill(os.getpid(), sent)
        return result

    return awaited


if __name__ == "__main__":
    (at, nth, *how), flags = sys.argv[1].split(":"), sys.argv[2:]
    arm(at, int(nth), *(signal.Signals[name] for name in how))
    from enricher.main import main

    sys.exit(main(flags))
