# SPDX-License-Identifier: Apache-2.0
"""Sizes as people write them: `512MiB`, `1.5 GB`, `4096`. Pure."""

import re
from typing import Annotated

from pydantic import BeforeValidator, ByteSize

_SIZE = re.compile(r"\s*([0-9]*\.)?[0-9]+\s*[A-Za-z]*\s*")


def _is_whole(value: object) -> object:
    """Return it; raise `ValueError` for text that is not a size from end to end: of "1,5TiB" pydantic reads the 1."""
    if isinstance(value, str) and not _SIZE.fullmatch(value):
        raise ValueError("expected a size, for example, 512MiB or 1.5GB")
    return value


Size = Annotated[ByteSize, BeforeValidator(_is_whole)]
