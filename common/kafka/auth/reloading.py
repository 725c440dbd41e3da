# SPDX-License-Identifier: Apache-2.0
"""What is made of files, again whenever they have changed."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from common.errors import Refusal
from common.input.files import read_bounded
from common.settings import KafkaSettings

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reloading(Generic[T]):
    """What `make` makes of the files that settings name; the last of it while they cannot be used.

    `make` raises `Refusal` for such files: the first time that is passed on, later it is a line in the log.
    """

    def __init__(self, settings: KafkaSettings, names: Sequence[str], make: Callable[[], T]) -> None:
        self._paths = [path for name in names if (path := getattr(settings, name)) is not None]
        self._make = make
        self._contents = self._read()
        self._made = make()
        self._complaint = ""

    def get(self) -> T:
        """Return what is made of the files as they are now, or as they last could be used."""
        contents = self._read()
        if contents != self._contents:
            try:
                self._made = self._make()
            except Refusal as refusal:
                if str(refusal) != self._complaint:
                    log.warning("%s; what was read before is used", refusal)
                self._complaint = str(refusal)
                return self._made
            self._contents = contents
            log.info("read again: %s", ", ".join(map(str, self._paths)))
        self._complaint = ""
        return self._made

    def _read(self) -> list[bytes | None]:
        # Contents, not times: a file written twice within a clock tick has the same times.
        return [_bytes(path) for path in self._paths]


def secret(settings: KafkaSettings, name: str, what: str = "password") -> str:
    """Return the content of a file that a setting names; it is never part of a message. Raises `Refusal`."""
    path: Path = getattr(settings, name)
    try:
        content = read_bounded(path)
        return content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not text in UTF-8"
        raise Refusal(f"{name} = {str(path)!r}: {why}; expected a file that holds the {what}") from error


def _bytes(path: Path) -> bytes | None:
    try:
        return read_bounded(path)
    except OSError:
        return None
