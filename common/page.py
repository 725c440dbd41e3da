# SPDX-License-Identifier: Apache-2.0
"""How wide text for people may be: as the terminal, or, where it is read by something else, as wide as its names.

Code that lays text out asks `current`; a command's beginning says what it writes to, `top` again for each window. It is
not passed through every function in between, because there is one stdout.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

PROSE_WIDTH = 100
# On what is narrower nothing can be laid out; the terminal breaks lines as it does.
_NARROWEST = 40


class Page(NamedTuple):
    """`prose`: columns of text, `table`: of a table. `whole`: no name is shortened, however wide that makes a table."""

    prose: int = PROSE_WIDTH
    table: int = PROSE_WIDTH
    whole: bool = False


_USUAL, WHOLE = Page(), Page(whole=True)
_current: ContextVar[Page] = ContextVar("page", default=_USUAL)


def current() -> Page:
    """Return how wide text may be."""
    return _current.get()


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; None if it is none."""
    if not sys.stdout.isatty():
        return None
    return max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST)


@contextlib.contextmanager
def laid_out(columns: int | None) -> Iterator[None]:
    """Lay out for a terminal of so many columns; None: for a file or a pipe."""
    page = WHOLE if columns is None else Page(min(columns, PROSE_WIDTH), columns)
    token = _current.set(page)
    try:
        yield
    finally:
        _current.reset(token)
