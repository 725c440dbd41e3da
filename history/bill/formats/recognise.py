# SPDX-License-Identifier: Apache-2.0
"""The bills that are understood; which one a file is shows in its columns. Pure."""

from common.errors import Refusal
from history.bill.formats.aws import AWS
from history.bill.formats.azure import AZURE
from history.bill.formats.columns import Columns
from history.bill.formats.focus import FOCUS
from history.bill.formats.form import Format
from history.bill.formats.gcp import GCP

FORMATS: tuple[Format, ...] = (AWS, FOCUS, GCP, AZURE)


def recognise(columns: Columns, place: str) -> Format:
    """Return what kind of bill has these columns; raise `Refusal` that names what it lacks."""
    asked = [(each, each.needed(columns)) for each in FORMATS]
    for each, needed in asked:
        if all(needed.values()):
            return each
    near, needed = max(asked, key=lambda pair: sum(pair[1].values()) / len(pair[1]))
    lacks = [name for name, is_there in needed.items() if not is_there]
    if len(lacks) * 2 > len(needed):
        known = ", ".join(each.name for each in FORMATS)
        raise Refusal(f"{place}: not a bill that is known here ({known}): its columns are of none of them")
    raise Refusal(f"{place}: looks like {near.name}, and lacks {', '.join(lacks)}; export it with these columns")
