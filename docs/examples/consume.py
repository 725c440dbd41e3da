# SPDX-License-Identifier: Apache-2.0
"""Adds up cross-zone bytes by sending namespace from the enriched topic; each flow once, whatever is sent again.

pip install confluent-kafka
python consume.py 127.0.0.1:9092
"""

import json
import sys
from collections import Counter
from typing import Any

from confluent_kafka import Consumer

TOPIC = "zonemeter.flows.enriched.v1"


class Marks:
    """The last flow taken of each life of each node: what is not greater was taken before."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, str], tuple[int, ...]] = {}

    def is_new(self, partition: int, flow_id: str) -> bool:
        """Note a flow; return whether it comes for the first time."""
        # cluster/node/boot_id, then generation/sequence/chunk/index, which only grow: compare them as numbers.
        origin, *numbers = flow_id.rsplit("/", 4)
        at = tuple(map(int, numbers))
        if at <= self._last.get((partition, origin), ()):
            return False
        self._last[partition, origin] = at
        return True


def add(totals: Counter[str], flow: dict[str, Any]) -> None:
    """Count a flow by its sender, if it went to another zone."""
    # The outer packets of an overlay carry inner packets that are counted already.
    if flow["scope"] != "cross_zone" or "encapsulation" in flow:
        return
    source = flow["source"]
    # What is not known is absent: a node has no namespace, a managed database has a name.
    namespace = source.get("k8s", {}).get("namespace", {}).get("name")
    totals[namespace or source.get("name") or source["kind"]] += flow["bytes"]


def main(bootstrap: str) -> None:
    """Read forever; print the totals whenever there was something new and all of it is read."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "my-service",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": False,
        }
    )
    consumer.subscribe([TOPIC])
    totals: Counter[str] = Counter()
    marks = Marks()
    changed = False
    while True:
        messages = consumer.consume(500, timeout=1.0)
        for message in messages:
            if message.error():
                raise SystemExit(str(message.error()))
            value, partition = message.value(), message.partition()
            if value is None or partition is None:
                continue  # not a flow: each has a value
            flow = json.loads(value)
            if marks.is_new(partition, flow["id"]):
                add(totals, flow)
                changed = True
        if changed and not messages:
            # Here you would store totals, marks and positions together, in one transaction of your own store.
            print(json.dumps(totals), flush=True)
            consumer.commit(asynchronous=False)
            changed = False


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092")
