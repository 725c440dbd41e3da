# SPDX-License-Identifier: Apache-2.0
"""Reads TOML that somebody wrote by hand: whatever is wrong with it is a `ValueError` of one line."""

import tomllib
from collections.abc import Callable
from typing import Any


def parse(content: bytes, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """Return the document; raise `ValueError` for bytes that are not UTF-8, not TOML, or nested without end."""
    try:
        return tomllib.loads(content.decode(), parse_float=parse_float)
    except UnicodeDecodeError as error:
        raise ValueError(f"not TOML, which is UTF-8: byte {error.start} is {content[error.start]:#04x}") from error
    except RecursionError as error:
        raise ValueError("not TOML that can be read: nested too deeply") from error
    except (ValueError, ArithmeticError) as error:  # of numbers, what Python itself does not take
        raise ValueError(f"not TOML: {' '.join(str(error).split()) or type(error).__name__}") from error
