# SPDX-License-Identifier: Apache-2.0
"""Where a flow log is: a directory, or the URI of a path in an object store. Pure.

A URI stands in logs, in `--print-config` and in shell histories, so it never holds a credential: one that does is
refused, and what refuses it does not repeat it.
"""

import re
from typing import Annotated
from urllib.parse import parse_qsl

from pydantic import AfterValidator

# Of S3 only: where its bucket is, and how to reach a server that speaks like it.
_S3_OPTIONS = {
    "region": re.compile(r"[A-Za-z0-9-]{1,63}"),
    "endpoint_override": re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", re.ASCII),
    "scheme": re.compile(r"https?"),
}
_EXAMPLES = {"region": "eu-west-1", "endpoint_override": "minio.storage:9000", "scheme": "https"}
_CONTAINER_AT_ACCOUNT = re.compile(r"[^@:/]+@[^@:/]+(/[^@]*)?")


def check_location(value: str) -> str:
    """Return it; raise `ValueError`, which does not repeat it, for a URI that holds more than a place."""
    if "://" not in value:
        return value
    scheme, _, rest = value.partition("://")
    place, _, query = rest.partition("?")
    # A secret may have a "/", so the "@" after it may stand anywhere. Azure names a container before it.
    if "@" in rest and not (scheme in ("abfs", "abfss") and _CONTAINER_AT_ACCOUNT.fullmatch(place)):
        raise ValueError(
            "an @, as before it credentials would stand, which end in logs; expected SCHEME://BUCKET/PATH, and "
            "credentials where the provider's own tools look for them"
        )
    for name, given in parse_qsl(query, keep_blank_values=True):
        if scheme != "s3" or name not in _S3_OPTIONS:
            raise ValueError(
                f"{name[:50]!r} is not an option of such a URI; expected none, or with s3:// some of "
                f"{', '.join(_S3_OPTIONS)}"
            )
        if not _S3_OPTIONS[name].fullmatch(given):
            raise ValueError(f"its {name} is not one; expected, for example, {_EXAMPLES[name]}")
    return value


def without_secrets(value: object) -> object:
    """Return a setting's value as it may be shown: of a URI neither what stands before "@" nor its options."""
    if not isinstance(value, str) or "://" not in value:
        return value
    return re.sub(r"://.*@", "://...@", value, flags=re.DOTALL).partition("?")[0]


Location = Annotated[str, AfterValidator(check_location)]
