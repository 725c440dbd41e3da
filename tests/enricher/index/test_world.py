# SPDX-License-Identifier: Apache-2.0
"""The index against the truth: whatever the API shows, and whatever it misses, a pod that is named is the right one.

Reuse within a window, pods that start before their predecessor has gone, forced deletes, nodes that die, outages
that swallow events and restarts are all in it. What no record can tell is left out: a pod that came and went, both,
while nobody watched.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.index.addresses import pack
from enricher.index.tenancy import FOREVER
from tests.support.enricher.world import ADDRESSES, T0, Enricher, Event, Life, events, lives


def told(made: list[Life], outage: tuple[int, int], delay: int, *, restarted: bool) -> Enricher:
    """Return an enricher that was told everything but what happened in the outage, then listed again."""
    enricher, begin, end = Enricher(), *outage
    everything = events(made)
    present: dict[str, Event] = {}
    listed = False
    for event in [*everything, None]:
        if not listed and (event is None or event.at >= end):
            enricher.list_anew(list(present.values()), end + delay, restarted=restarted)
            listed = True
        if event is None:
            break
        if event.deleted:
            present.pop(event.uid, None)
        else:
            present[event.uid] = event
        if not begin <= event.at < end:
            enricher.take(event, event.at + delay)
    return enricher


def named(enricher: Enricher, address: str, start: int, end: int) -> set[str]:
    """Return the pods that the index thinks may have held the address in a window."""
    packed = pack(address)
    assert packed is not None
    return {state.uid for state in enricher.index.owners(("pod", packed), start, end)}


def surely_apart(other: Life, start: int, end: int) -> bool:
    """Whether what is told of a pod leaves no doubt that it did not hold its address in a window."""
    if other.started // 1000 * 1000 >= end:
        return True
    return other.fate in ("completes", "deleted") and other.ended // 1000 * 1000 + 1000 <= start


@given(lives(), st.integers(0, 90), st.integers(0, 60), st.integers(0, 8), st.booleans())
@settings(max_examples=250)
def test_who_is_named_is_who_sent(made: list[Life], begin: int, length: int, delay: int, restarted: bool) -> None:
    outage = (T0 + begin * 1000, T0 + (begin + length) * 1000)
    enricher = told(made, outage, delay * 250, restarted=restarted)
    for address in ADDRESSES:
        tenants = [life for life in made if life.address == address and life.name in enricher.seen]
        for start in range(T0, T0 + 200_000, 5_000):
            end = start + 10_000
            senders = {life.name for life in tenants if life.acquired < end and start < life.ended}
            found = named(enricher, address, start, end)
            assert len(found) != 1 or senders <= found


@given(lives(), st.integers(0, 8))
@settings(max_examples=150)
def test_who_sent_is_named_unless_what_is_told_leaves_doubt(made: list[Life], delay: int) -> None:
    enricher = told(made, (T0 - 1000, T0 - 1000), delay * 250, restarted=False)
    for life in made:
        others = [other for other in made if other.address == life.address and other is not life]
        gone = FOREVER if life.fate != "forced" or life.deleted_at is None else life.deleted_at
        for start in range(life.acquired // 1000 * 1000, min(life.ended, gone), 1000):
            if all(surely_apart(other, start, start + 1000) for other in others):
                assert named(enricher, life.address, start, start + 1000) == {life.name}
