# SPDX-License-Identifier: Apache-2.0
"""What is looked at in one go where all of the index is: so that no chunk waits for longer than that. Pure."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# Objects: a few milliseconds.
PART = 500


def parts(of: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield slices of a sequence, `PART` long."""
    return (of[at : at + PART] for at in range(0, len(of), PART))
