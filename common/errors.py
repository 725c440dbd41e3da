# SPDX-License-Identifier: Apache-2.0
"""Errors that every service treats alike.

Refusal        nothing can be done until somebody changes something: one line, exit 2
Nothing        there is nothing to answer: one line, exit 1
PublishError   some records are not known to be in Kafka: publish them again, as a repeat
Stopped        the service was told to stop, and what was asked for will not be done
"""


class Refusal(Exception):  # noqa: N818 - it is what the service says, not what went wrong inside it
    """Wrong use or settings; its text is one line that says what, where and what to do. Exit status 2."""


class Nothing(Exception):  # noqa: N818 - it is the answer, and no fault
    """What was asked about is not there; its text is one line that says why. Exit status 1."""


class Stopped(Exception):  # noqa: N818 - no error: it is what was wanted
    """Told to stop before it was done. Not an `OSError`, so nothing that retries after a failure retries after this."""


class PublishError(Exception):
    """At least one record was not acknowledged in time; the producer has been closed and rebuilt."""


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors that an exception group is made of, however deep; of any other, itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in leaves(part)]
