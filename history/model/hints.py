# SPDX-License-Identifier: Apache-2.0
"""Hints for an empty result: the values present, and the one that was probably meant. Pure."""

import difflib
from dataclasses import dataclass, field

from common.amounts import first_few
from history.model.filters import Selection

LONGEST_LIST = 8


@dataclass
class Present:
    """What a range holds: how many flows, and the bytes of the largest.

    `met`: what a selection asks for and some flow meets, as (filter, value). `values`: by filter, what others it could
    have asked for where a value of it is not met: of a workload `namespace/Kind/name`, of a pod `namespace/name`.
    """

    flows: int = 0
    largest: int = 0
    met: set[tuple[str, str]] = field(default_factory=set)
    values: dict[str, set[str]] = field(default_factory=dict)

    def merge(self, other: "Present") -> None:
        """Note what other rows have too."""
        self.flows += other.flows
        self.largest = max(self.largest, other.largest)
        self.met |= other.met
        for name, values in other.values.items():
            self.values.setdefault(name, set()).update(values)


def why_nothing(selection: Selection, present: Present, where: str = "in this range") -> str:
    """Say in one line why no row matched, and which filter would have."""
    for name, value, _ in selection.alone():
        if (name, value) not in present.met:
            hint = f"; {_suggest(name, value, present.values[name])}" if name in present.values else ""
            return f'no flow of {name} "{value}" {where}{hint}'
    if selection.min_bytes > present.largest:
        return f"no flow of {selection.min_bytes:,} bytes or more {where}; the largest has {present.largest:,}"
    return f"no flow meets all the filters {where}, though each alone is met by some; leave one out"


def _suggest(name: str, wanted: str, there: set[str]) -> str:
    if not there:
        return f"none here has a {name}"
    if name == "scope":  # it is one that there is, only not here
        return f"there are {', '.join(sorted(there))}"
    # A name is typed without what stands before it: compare with the last part too.
    last = {full.rpartition("/")[2]: full for full in sorted(there)}
    near = difflib.get_close_matches(wanted, [*there, *last], n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"there are {first_few(sorted(there), LONGEST_LIST)}"
