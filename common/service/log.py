# SPDX-License-Identifier: Apache-2.0
"""Logging as JSON lines on stderr: one object a line, keys rather than prose, nothing that a terminal obeys."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

from common.terminal import escaped

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_SPARED = ("aiokafka", "aiohttp", "kubernetes_asyncio")
_MAX_REMEMBERED = 1000


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; what is passed as `extra` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line without its newline."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return escaped(orjson.dumps(line, default=str).decode())


class Sparing(logging.Filter):
    """Lets the same complaint of a library through once a minute: with a broker away aiokafka has thirty a second."""

    SECONDS = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log it."""
        if not record.name.startswith(_SPARED):
            return True
        key = (record.name, str(record.msg))
        if record.created - self._last.get(key, float("-inf")) < self.SECONDS:
            return False
        if len(self._last) > _MAX_REMEMBERED:
            self._last.clear()
        self._last[key] = record.created
        return True


def configure(level: str) -> None:
    """Send all logging to stderr as JSON lines; libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(Sparing())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("aiohttp", "asyncio", "pyroute2", "kubernetes_asyncio", "aiokafka.consumer", "aiokafka.producer"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # A broker that is away is said once, by the service's health; aiokafka's clients would say it at every attempt.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
