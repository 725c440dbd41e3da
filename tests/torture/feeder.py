# SPDX-License-Identifier: Apache-2.0
"""Plays the collectors of all nodes: publishes windows of known content, all the while, and keeps the truth.

It uses librdkafka, not the client under test. Like a collector it goes on with a node's next window only when the one
before is acknowledged, sends a window that may have arrived again, marked `maybe_repeat`, and sends without a timestamp
what the broker refuses for its timestamp.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import confluent_kafka
import orjson
from msgspec.structs import replace

from schemas.amount import NOTHING
from schemas.ids import Origin
from schemas.ledger import encode_ledger
from schemas.topics import TopicNames
from tests.torture.content import NODES, Content, Expected, Window

# What a record's timestamp is that has none; a broker takes it whatever its clock says.
NO_TIMESTAMP = -1
# The last window that was acknowledged, by life of a node.
Sent = dict[Origin, int]

# librdkafka complains of brokers that were killed on purpose.
_quiet = logging.getLogger("feeder")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Feeder:
    """A thread that feeds. `truth` holds every flow that must come of what was acknowledged, by id."""

    def __init__(self, content: Content, bootstrap: str, topics: TopicNames, pause_seconds: float = 0.1) -> None:
        self.content = content
        self.truth: dict[str, Expected] = {}
        self.sent: Sent = {}
        self.windows: set[str] = set()
        self.repeats = 0
        self.untimed = 0  # windows
        self.gaps: set[tuple[str, str]] = set()  # node, and in the audit's words what is missing
        self._furthest: Sent = {}
        self.pause_seconds = pause_seconds
        self._topics = topics
        self._options = {"bootstrap.servers": bootstrap, "linger.ms": 0, "message.timeout.ms": 0, "acks": "all"}
        self._options |= {"enable.idempotence": True, "compression.type": "zstd", "reconnect.backoff.max.ms": 500}
        self._producer = confluent_kafka.Producer(self._options, logger=_quiet)
        self._appending: Any = None
        self._next = dict.fromkeys(NODES, 1)
        self._lock = threading.Lock()
        self._stopping, self._going = threading.Event(), threading.Event()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self) -> None:
        """Begin to feed."""
        self._thread.start()
        self.resume()

    def pause(self) -> None:
        """Return when nothing is under way any more."""
        self._going.clear()
        self._idle.wait()

    def resume(self) -> None:
        """Go on."""
        self._idle.clear()
        self._going.set()

    def stop(self) -> None:
        """End the thread; what is under way is acknowledged first."""
        self._stopping.set()
        self._going.set()
        if self._thread.ident is not None:  # else it was never started: what kept it from that is to be told
            self._thread.join()

    def marks(self) -> Sent:
        """Return the last acknowledged window of every node's life."""
        with self._lock:
            return dict(self.sent)

    def feed(self, node: str, rows: int | None = None, *, times: int = 1) -> Window:
        """Publish a node's next window, `times` times, in the caller's thread: pause the feeder first."""
        window = self.number(node, rows)
        for number in range(times):
            self.publish(window, maybe_repeat=number > 0)
        return window

    def number(self, node: str, rows: int | None = None, *, long: bool = False) -> Window:
        """Return a node's next window, and publish nothing; `long` as `Content.window` has it."""
        self._next[node] += 1
        return self.content.window(node, self._next[node] - 1, rows, long=long)

    def publish(self, window: Window, *, maybe_repeat: bool = False) -> None:
        """Publish a window until all of it is acknowledged, then note what must come of it."""
        timestamp_ms = window.end_ms
        while errors := self._try(window, maybe_repeat, timestamp_ms):
            maybe_repeat = True
            self.repeats += 1
            # As a collector whose clock is ahead must: the broker takes nothing that is more than an hour ahead.
            if any(error.code() == confluent_kafka.KafkaError.INVALID_TIMESTAMP for error in errors):
                timestamp_ms = NO_TIMESTAMP
            if self._stopping.is_set():
                return
        origin = self.content.origin(window.node)
        self._note_gap(origin, window.sequence)
        with self._lock:
            self.untimed += timestamp_ms == NO_TIMESTAMP
            self.truth |= window.flows
            self.sent[origin] = window.sequence
            self.windows.add(window.ledger.id)

    def skip(self, node: str, windows: int) -> None:
        """Leave out some of a node's numbers, as if their windows had been lost before they were published."""
        self._next[node] += windows

    def forge(self, window: Window) -> None:
        """Publish a window that somebody made up in a node's name, and that nobody can tell from a true one."""
        assert not self._try(window, maybe_repeat=False, timestamp_ms=window.end_ms)
        origin = self.content.origin(window.node)
        furthest = self._furthest[origin]
        self._note_gap(origin, window.sequence)
        self._furthest[origin] = furthest
        with self._lock:
            self.truth |= window.flows
            self.windows.add(window.ledger.id)

    def contradict(self, window: Window) -> None:
        """Say that there was nothing in a window, under the key that its collector's entry has."""
        entry = replace(window.ledger, taken=NOTHING, given=NOTHING, chunks=0)
        self.append(self._topics.ledger, entry.partition, [(entry.key, encode_ledger(entry))])

    def raw(self, value: bytes | None, key: bytes, partition: int) -> None:
        """Append anything at all to the raw topic."""
        self.append(self._topics.raw, partition, [(key, value)])

    def append(self, topic: str, partition: int, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Append keys and values of any kind to a topic."""
        if self._appending is None:
            self._appending = confluent_kafka.Producer(self._options | {"message.max.bytes": 20_000_000}, logger=_quiet)
        producer = self._appending
        errors: list[Any] = []
        for key, value in records:
            producer.produce(topic, value, key, partition, on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(30) == 0
        assert errors == [None] * len(records), errors

    def _note_gap(self, origin: Origin, sequence: int) -> None:
        first, last = self._furthest.get(origin, sequence) + 1, sequence - 1
        self._furthest[origin] = max(first - 1, sequence)
        if first <= last:
            numbers = f"{first} to {last}" if first < last else str(first)
            self.gaps.add((origin.node, f"sequence {numbers} missing (boot {origin.boot_id}, generation 1)"))

    def _try(self, window: Window, maybe_repeat: bool, timestamp_ms: int) -> list[Any]:
        errors: list[Any] = []
        partition = self.content.partition(window.node)
        for topic, key, value in _records(window, self._topics, maybe_repeat):
            self._producer.produce(
                topic,
                value,
                key,
                partition,
                on_delivery=lambda error, _: errors.append(error) if error else None,
                timestamp=timestamp_ms,
            )
        self._producer.flush()
        if errors:
            # After an error of one record an idempotent producer may have sent what followed it.
            self._producer = confluent_kafka.Producer(self._options, logger=_quiet)
        return errors

    def _run(self) -> None:
        nodes: Iterator[str] = cycle(NODES)
        while not self._stopping.is_set():
            if not self._going.is_set():
                self._idle.set()
                self._going.wait()
                continue
            self.feed(next(nodes))
            self._stopping.wait(self.pause_seconds)
        self._idle.set()


def _records(window: Window, topics: TopicNames, maybe_repeat: bool) -> Iterator[tuple[str, bytes, bytes]]:
    for chunk in window.chunks:
        value = orjson.dumps(orjson.loads(chunk) | {"maybe_repeat": True}) if maybe_repeat else chunk
        yield topics.raw, window.node.encode(), value
    yield topics.ledger, window.ledger.key, encode_ledger(window.ledger)
