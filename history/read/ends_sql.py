# SPDX-License-Identifier: Apache-2.0
"""Both ends of a flow as SQL over the flow log's columns, and the parties of a row that these columns gave."""

from collections.abc import Sequence

from history.model.party import FIELDS, Parties, Party

SIDES = ("src_", "dst_")
# What of an end names it depends on its kind: one column in the place of four, because each takes its time. The outer
# packets of an overlay go from each node to each, and only their sum is told. The kind that most ends have is first.
_OWN_NAMES = ("pod", "service", "node", "name")
_OWN_NAME = """CASE WHEN {0}kind = 'pod' THEN CASE WHEN {0}workload IS NULL THEN {0}pod END
    WHEN {0}kind = 'node' THEN CASE WHEN encapsulation IS NULL THEN {0}node END
    WHEN {0}kind = 'service' THEN {0}service ELSE {0}name END"""
_SHARED_FIELDS = [name for name in FIELDS if name not in _OWN_NAMES]
# Of both ends the columns, that name, and whether it is a broker.
ENDS_WIDTH = 2 * (len(_SHARED_FIELDS) + 2)


def _end_columns(side: str) -> list[str]:
    """Return the columns that a report's end is made of."""
    return [*(f"{side}{name}" for name in _SHARED_FIELDS), _OWN_NAME.format(side)]


def both_ends(parties: Parties) -> tuple[list[str], list[str | int]]:
    """Return the columns that `parties_of` makes parties of, and their parameters."""
    brokers = " OR ".join(["(%saddress = ? AND %sport = ?)"] * len(parties.brokers))
    pairs = [value for address in sorted(parties.brokers) for value in address]
    # Which end is a broker tells what of a node's traffic is the meter's own, and nothing else.
    sides = zip(SIDES, reversed(SIDES), strict=True)
    test = f"{{1}}kind = 'node' AND ({brokers.replace('%s', '{0}')})" if brokers else "false"
    tests = {side: test.format(side, other) for side, other in sides}
    return [each for side, test in tests.items() for each in (*_end_columns(side), test)], [*pairs, *pairs]


def parties_of(parties: Parties, values: Sequence[object]) -> tuple[Party, Party]:
    """Return the parties at both ends, of the values of such columns."""
    width = ENDS_WIDTH // 2
    source, destination = (_end(parties, side) for side in (values[:width], values[width:]))
    return source, destination


def _end(parties: Parties, values: Sequence[object]) -> Party:
    *shared, own, broker = values
    known = dict.fromkeys(_OWN_NAMES, own) | dict(zip(_SHARED_FIELDS, shared, strict=True))
    facts = (known[name] for name in FIELDS)
    return parties.of([None if value is None else str(value) for value in facts], broker=bool(broker))
