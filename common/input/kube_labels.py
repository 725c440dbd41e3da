# SPDX-License-Identifier: Apache-2.0
"""Names of Kubernetes labels, as settings and flags give them. Pure."""

import re

from schemas.topology import MAX_LABELS

# An optional prefix, which is a DNS subdomain, and a name: Kubernetes documentation, Labels and Selectors.
_PART = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL = re.compile(
    rf"(?:(?=[^/]{{1,253}}/){_PART}(\.{_PART})*/)?(?=[^/]{{1,63}}$)[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
)


def label_name(text: str) -> str:
    """Return the text; raise `ValueError` if no label can be called so."""
    if not _LABEL.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of a label; expected, for example, team or example.com/team")
    return text


def label_names(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list, each once; raise `ValueError` for what no label can be called."""
    names = tuple(dict.fromkeys(label_name(part.strip()) for part in text.split(","))) if text.strip() else ()
    if len(names) > MAX_LABELS:
        raise ValueError(f"{len(names)} labels; expected at most {MAX_LABELS}")
    return names
