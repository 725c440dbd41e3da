# SPDX-License-Identifier: Apache-2.0
"""What stands in fields of the API's objects: times, versions, names. Pure. Times come out as Unix milliseconds."""

import itertools
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from enricher.kube.states.objects import Object, Pod

# What names (RFC 1123 subdomains) and kinds can be: at most 253 characters, none that JSON would have to escape.
_NAME = re.compile(r"[!#-\[\]-~]{1,253}")


def milliseconds(stamp: str | None) -> int | None:
    """Parse an RFC 3339 time, with whole seconds or a fraction; None if it is none."""
    if not stamp:
        return None
    try:
        parsed = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def latest(stamp: str | None) -> int | None:
    """Return the latest time that a stamp may mean, in ms: metav1.Time cuts off what is less than a second."""
    time = milliseconds(stamp)
    return None if time is None else time if time % 1000 else time + 1000


def changed_ms(found: Object, seen_ms: int) -> int:
    """Return when an object last changed, as its newest condition or managed field tells, else when we saw it.

    Never later than we saw it: clocks differ.
    """
    stamps = [managed.time for managed in found.metadata.managed_fields or ()]
    if isinstance(found, Pod):
        stamps += [condition.last_transition_time for condition in found.status.conditions or ()]
    times = [time for stamp in stamps if (time := milliseconds(stamp)) is not None]
    return min(max(times, default=seen_ms), seen_ms)


def list_version(version: str) -> str:
    """Return the name of what only a list showed; no object's own resourceVersion is like it."""
    return f"list-{version}"


def versions_like(version: str) -> Iterator[str]:
    """Yield a version and names that are like it, for states that it would not tell apart."""
    yield version
    yield from (f"{version}+{number}" for number in itertools.count(1))


def is_older(version: str, other: str) -> bool:
    """Return whether a version is before another; versions that are not numbers have no known order.

    They grow: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions.
    """
    one, two = (each.removeprefix("list-").partition("+")[0] for each in (version, other))
    return one.isdecimal() and two.isdecimal() and int(one) < int(two)


def interned(text: str | None) -> str | None:
    """Return one object for equal texts, None for an empty one: the same few stand in many thousands of states."""
    return sys.intern(text) if text else None


def at_most(text: str | None, length: int) -> str | None:
    """Return the text, None if there is none or it is longer."""
    return text if text and len(text) <= length else None


def is_name(text: str) -> bool:
    """Return whether an object's name or kind can be like this."""
    return _NAME.fullmatch(text) is not None
