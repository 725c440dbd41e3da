# SPDX-License-Identifier: Apache-2.0
"""Logging as JSON lines on stderr: one object a line, keys rather than prose."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
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
        return orjson.dumps(line, default=str).decode()


def configure(level: str) -> None:
    """Send all logging to stderr as JSON lines; libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("aiohttp", "asyncio", "pyroute2", "kubernetes_asyncio", "aiokafka.consumer", "aiokafka.producer"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # A broker that is away is said once, by the service's health; aiokafka's clients would say it at every attempt.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
