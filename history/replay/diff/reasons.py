# SPDX-License-Identifier: Apache-2.0
"""What a new join says otherwise than the one that was recorded, and why. Pure.

A reason is what the two attributions themselves say, by the rules of the topic and of the join; where they do not say
it, the reason is `unknown`. What changed in the cluster, in a map or in the code meanwhile is not looked at: that it is
the cause would be a guess.
"""

from collections.abc import Mapping
from typing import Any

from history.model.end_names import reads_as_network

# What is said of an end, but for its address and port: these were counted, and not attributed.
END_FACTS = (
    *("kind", "namespace", "pod", "workload_kind", "workload", "service", "node", "zone", "region", "zone_id"),
    *("name", "reason"),
)
# What no end says. Of these the chunk alone decides `direction`, `encapsulation`, `dnat` and `server`.
_COUNTED = ("direction", "encapsulation", "dnat", "server")
_OBSERVER = ("observer_zone", "observer_region")
FACTS = (
    *("scope", *_COUNTED, *_OBSERVER),
    *(f"src_{name}" for name in END_FACTS),
    *(f"dst_{name}" for name in END_FACTS),
)
_ENDS = {"source": "src_", "destination": "dst_"}

UNKNOWN = "unknown"
# Of an end, or of the observer.
CIDR_ADDED, CIDR_CHANGED, CIDR_REMOVED = "cidr_added", "cidr_changed", "cidr_removed"
TOPOLOGY_LATER = "topology_later"
# Of a flow.
VERSION = "version"
PRICES = "prices"
# Of what one side alone has.
CHUNK_NOT_READ, CHUNK_NOT_RECORDED, SENDER_METERED = "chunk_not_read", "chunk_not_recorded", "sender_in_cluster"

# In words, for people.
WORDS = {
    CIDR_ADDED: "an entry of the CIDR map holds it now",
    CIDR_CHANGED: "the entry of the CIDR map is another",
    CIDR_REMOVED: "no entry of the CIDR map holds it now",
    TOPOLOGY_LATER: "the topology became known later",
    VERSION: "this version of zonemeter joins otherwise",
    PRICES: "the price file is another",
    CHUNK_NOT_READ: "its raw chunk is not in the topic",
    CHUNK_NOT_RECORDED: "nothing of its chunk was recorded",
    SENDER_METERED: "its sender is metered itself, and counts there",
    UNKNOWN: "it is not known why",
}

# What the end of an address is that no entry of the CIDR map holds: the map is asked before any of these is said.
_BEYOND_THE_MAP = ("vpc_unmapped", "api_server", "link_local", "multicast")

Facts = Mapping[str, Any]


def differing(then: Facts, now: Facts) -> tuple[str, ...]:
    """Return which of `FACTS` differ, in their order."""
    return tuple(name for name in FACTS if then[name] != now[name])


def reasons(then: Facts, now: Facts, *, summed: bool = False) -> tuple[str, ...]:
    """Return why two attributions of one flow differ, each after the end that it is of: `source cidr_added`.

    `summed`: the recorded flow sums up several, and does not say all of its ends.
    """
    found = [(word, _of_end(_end(then, side), _end(now, side))) for word, side in _ENDS.items()]
    told = [f"{word} {why}" for word, why in found if why]
    observer = next((name for name in _OBSERVER if then[name] != now[name]), None)
    if observer is not None:
        told.append(f"observer {TOPOLOGY_LATER if then[observer] is None else UNKNOWN}")
    follows = any(why for _, why in found) or (observer is not None and then["direction"] == "relay")
    if any(then[name] != now[name] for name in _COUNTED) or (then["scope"] != now["scope"] and not follows):
        told.append(UNKNOWN if summed else VERSION)
    return tuple(told)


def _end(facts: Facts, side: str) -> dict[str, Any]:
    return {name: facts[f"{side}{name}"] for name in END_FACTS}


def _of_end(then: Facts, now: Facts) -> str:
    """Return why what is said of one end differs; "" if it does not."""
    if then == now:
        return ""
    was, is_ = _entry(then), _entry(now)
    if was and is_:
        # Whatever is on a node may be where that is, and not where the entry says.
        return CIDR_CHANGED if was != is_ or then["node"] == now["node"] is None else UNKNOWN
    if is_:
        return CIDR_ADDED if _is_beyond_the_map(then) else UNKNOWN
    if was:
        return CIDR_REMOVED if _is_beyond_the_map(now) else UNKNOWN
    if then["reason"] == "late_index" and now["kind"] in ("pod", "node", "service"):
        return TOPOLOGY_LATER
    if then["reason"] == "zone_missing" and now["reason"] == "api_server":
        return VERSION  # earlier ones had no name for it
    if then["reason"] == "zone_missing" and now["reason"] is None and _is_same_but(then, now, "zone_missing"):
        return TOPOLOGY_LATER
    return UNKNOWN


def _entry(end: Facts) -> str:
    """Return the name of the entry of the CIDR map that an end has its name from; "" if it has none from there."""
    name = end["name"] or ""
    named = end["kind"] == "cidr" or (end["kind"] == "external" and not reads_as_network(name))
    return str(name) if named else ""


def _is_beyond_the_map(end: Facts) -> bool:
    return end["kind"] == "external" or end["reason"] in _BEYOND_THE_MAP


def _is_same_but(then: Facts, now: Facts, reason: str) -> bool:
    """Return whether an end is the same, and all that is new of it is the place that was missing."""
    places = ("zone", "region", "zone_id")
    return then["reason"] == reason and all(
        then[name] == now[name] or (name in places and then[name] is None) for name in END_FACTS if name != "reason"
    )
