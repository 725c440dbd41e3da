# SPDX-License-Identifier: Apache-2.0
"""The books over a list of ledger entries, as they would be over a topic that holds them."""

from collections.abc import Collection, Iterable

from audit.books import Reconciler, conclude
from audit.result import Audit, Shortfall
from schemas.ledger import LedgerRecord
from schemas.topology import TopologyState


def reconcile(
    records: Iterable[LedgerRecord],
    settled_before_ms: int,
    nodes: Iterable[TopologyState] | None = None,
    waiting: Collection[Shortfall] = (),
    whole: Collection[int] = (),
) -> Audit:
    """Close the books over `records`, in the order of the ledger; `nodes`, if given, are the cluster's in the range.

    `waiting`: what was seen to wait in Kafka. `whole`: partitions of the ledger that were read from their first record.
    """
    audit = Audit()
    books = Reconciler(audit.of)
    for record in records:
        books.take(record)
    return conclude(books, audit, settled_before_ms, nodes, waiting, whole)
