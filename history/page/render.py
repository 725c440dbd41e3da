# SPDX-License-Identifier: Apache-2.0
"""Makes one document of a template: no network, every name escaped, and never larger than a mail takes.

Jinja2 escapes whatever a template writes, and `_shown` sees it before: that is the one way for a name into a page. The
policy in the page is the last resort: a browser runs no script but the page's own and loads nothing.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.amounts import counted, duration, human, percent
from common.terminal import plain
from history.model.time_range import rfc3339, timestamp
from history.page.bounds import Bounds
from history.page.svg import clipped

MOST_BYTES = 1_000_000
# Of a text in a page, in characters: a namespace, a kind and a name of 253 fit; what is longer is made up.
LONGEST = 1_000
_FOLDER = Path(__file__).parent / "templates"


def page(template: str, view: Callable[[Bounds], Mapping[str, Any]]) -> str:
    """Return the document that a template makes of a view, with as many rows as fit into `MOST_BYTES`."""
    bounds = Bounds()
    while True:
        document = _environment().get_template(template).render(**view(bounds))
        if len(document.encode()) <= MOST_BYTES or max(bounds) == 1:
            return document
        bounds = bounds.halved()


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_FOLDER.joinpath(name).read_text() for name in ("page.css", "page.js"))
    made.globals |= {
        "style": Markup(style),  # noqa: S704 - the two are files of this package
        "script": Markup(script),  # noqa: S704
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'",
    }
    made.filters |= {
        "human": human,
        "counted": counted,
        "duration": duration,
        "percent": percent,
        "timestamp": timestamp,
        "rfc3339": rfc3339,
    }
    return made


def _shown(value: object) -> object:
    """Return what is written where a template names a value: markup as it is, of a text what may be shown."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return clipped(plain(value), LONGEST)
    if isinstance(value, int):
        return value
    raise TypeError(f"a template writes {value!r}")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
