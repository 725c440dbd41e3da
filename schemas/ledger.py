# SPDX-License-Identifier: Apache-2.0
"""Topic `ledger.v1`: what each hop took in, gave out, put aside and lost, published with what it commits.

Always: `in` = `out` + sum of `aside` + sum of `lost`. `aside` is left out by design and named (a repeat, a
sender that is metered itself); `lost` is what nobody will see again. A hop that publishes an entry again
after a crash does so under the same key; readers take the first, and name what contradicts it.

Keys: `collector/<partition>/<window id>`, `enricher/<partition>/<chunk id>`,
`metrics/<partition>/<checkpoint>`, `flowlog/<partition>/<manifest>`.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from schemas.amount import Amount
from schemas.codec import MAX_INTEGER, Count, Milliseconds, versioned_reader
from schemas.errors import DecodeError
from schemas.raw import MAX_CHUNKS, UplinkCounters

SCHEMA_VERSION = 1
MAX_READ_BYTES = 1024 * 1024

# Of the enricher, what is aside because it came again and did not say that it might.
UNANNOUNCED_REPEAT = "unannounced_repeat"

Hop = Literal["collector", "enricher", "metrics", "flowlog"]


class LedgerRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One entry of one hop.

    `id` is the last part of the key. Of the collector: one window, `chunks` of it published. Of the enricher:
    one chunk; of a chunk that came again, `<chunk id>@<raw offset>`, so that it does not overwrite the first (aside as
    `repeat`, or as `unannounced_repeat` where the chunk does not say `maybe_repeat`, as a collector would). Of a
    sink: one checkpoint or manifest, which may hold parts of many chunks: `parts` gives the amount taken out of each
    chunk, by chunk id, so that an audit can say which window is short.

    Of the collector: `uplinks` are their own counters over the window, and `received` what of `given` the hook saw come
    in over one of them; so a wrong choice of uplinks shows. `ended_by` is "deadman" if counting stopped at `end_ms`,
    because no collector had been there for long; the time until the next window is unmeasured. `detached`: the program
    had been taken off its hook, or a part of it, and was put back before the window ended; since when is not known, so
    any of the window's time may be unmeasured. `clock_step_ms` is how
    far the node's clock was set while the window was open, forward or back (negative), if by more than a second:
    `start_ms` and `end_ms` are by the clock as it was set at the end, and the window before is by the clock as it was.

    Of the enricher: `senders` splits what is aside as `sender_in_cluster` by the sender's node, which should have
    counted it itself; `unmetered` what is in `given` although its sender is in the cluster, because its node has no
    collector ("?": node not known). `rolled_up` are the rows in `given` that were summed up into fewer flows.
    `foreign_source` is what the node says it sent from addresses of another node, by that node: it cannot have.
    """

    schema_version: int = SCHEMA_VERSION
    hop: Hop
    id: str
    partition: Count
    start_ms: Milliseconds
    end_ms: Milliseconds
    taken: Amount = msgspec.field(name="in")
    given: Amount = msgspec.field(name="out")
    aside: dict[str, Amount] = {}
    lost: dict[str, Amount] = {}
    node: str | None = None
    hook: str | None = None
    chunks: Annotated[int, msgspec.Meta(ge=0, le=MAX_CHUNKS)] | None = None
    uplinks: dict[str, UplinkCounters] = {}
    received: Amount | None = None
    parts: dict[str, Amount] = {}
    senders: dict[str, Amount] = {}
    unmetered: dict[str, Amount] = {}
    rolled_up: Amount | None = None
    foreign_source: dict[str, Amount] = {}
    ended_by: Literal["deadman"] | None = None
    detached: bool = False
    clock_step_ms: Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)] | None = None

    @property
    def key(self) -> bytes:
        """The record's Kafka key."""
        return f"{self.hop}/{self.partition}/{self.id}".encode()

    def balance(self) -> Amount | None:
        """Return None if the entry adds up, else what `out`, `aside` and `lost` come to."""
        size, packets = self.given.bytes, self.given.packets
        for amount in (*self.aside.values(), *self.lost.values()):
            size, packets = size + amount.bytes, packets + amount.packets
        return None if (size, packets) == (self.taken.bytes, self.taken.packets) else Amount(size, packets)


encode_ledger: Callable[[LedgerRecord], bytes] = msgspec.json.Encoder().encode
decode_ledger = versioned_reader(LedgerRecord, MAX_READ_BYTES, SCHEMA_VERSION)


def read_ledger(value: bytes | None, key: bytes | None, partition: int) -> LedgerRecord:
    """Decode a record of the ledger that stands in that partition under that key; raises `DecodeError`."""
    record = decode_ledger(value)
    if record.key != key:
        raise DecodeError("inconsistent", f"the key is {(key or b'')[:100]!r}, not {record.key[:100]!r}")
    if record.partition != partition:
        raise DecodeError("inconsistent", f"it says partition {record.partition} and stands in {partition}")
    return record
