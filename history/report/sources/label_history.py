# SPDX-License-Identifier: Apache-2.0
"""Reads what a label of namespaces was during a range, from the topology's history or a file of it."""

from dataclasses import dataclass
from pathlib import Path

from common.amounts import counted
from common.errors import Refusal
from common.settings import KafkaSettings
from enricher.delivery.topology_topic import read_states
from history.model.states.labels import LabelTime, label_times, labels_known
from history.model.time_range import TimeRange, timestamp
from history.read.rejoin import states_of


@dataclass(frozen=True)
class LabelHistory:
    """A label's name, what it was of each namespace when, and where that was read, in words."""

    name: str
    times: list[LabelTime]
    source: str


async def read_labels(settings: KafkaSettings, path: Path | None, label: str, span: TimeRange) -> LabelHistory:
    """Return the history of a label; raise `Refusal` where nothing of the range can be known by it."""
    topic = settings.topics.topology
    where = f"topic {topic}" if path is None else str(path)
    asked = f"by = label:{label}"
    if path is not None:
        states = read_states(path)
    else:
        try:
            # One that cannot be read says nothing; what it would have said is not known.
            states = [state async for state in states_of(settings, "namespace", lambda *_: None)]
        except Refusal as error:
            raise Refusal(f"{asked}: {error}; --topology FILE reads its history from a file") from error
    times = label_times(states, label)
    known = labels_known(states)
    if not times and not known:
        raise Refusal(f"{asked}: {where} holds no labels of namespaces; the enricher keeps --namespace-labels {label}")
    if label not in known:
        there = ", ".join(known) or "none"
        raise Refusal(f"{asked}: no namespace is known to have had it; known: {there} (enricher --namespace-labels)")
    since = min(time.from_ms for time in times)
    if since >= span.to_ms:
        raise Refusal(f"{asked}: labels are known since {timestamp(since)} UTC, and the range ends before that")
    late = f", since {timestamp(since)} only" if since > span.from_ms else ""
    namespaces = counted(len({time.namespace for time in times}), "namespace")
    return LabelHistory(label, times, f"label {label} of {namespaces}: {where}{late}")
