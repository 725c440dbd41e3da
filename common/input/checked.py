# SPDX-License-Identifier: Apache-2.0
"""Settings whose text is checked where it is given, and parsed where it is used. Pure."""

from collections.abc import Callable

from pydantic import AfterValidator


def checked(parse: Callable[[str], object]) -> AfterValidator:
    """Keep a text as it was written, if `parse` takes it; what it raises `ValueError` for is refused."""

    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)
