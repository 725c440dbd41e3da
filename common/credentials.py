# SPDX-License-Identifier: Apache-2.0
"""What proves to Kafka who a process is, and whom it trusts: from files that are read again for each connection.

To rotate a password, a certificate, a key or a CA is to replace its file, as Kubernetes does with a mounted Secret: the
next connection uses the new one, and open connections stay as they are. A file that can no longer be used (gone, half
written, a key that belongs to another certificate) stops nothing: what it held before is used, and the log says so.
"""

import functools
import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from aiokafka.abc import AbstractTokenProvider
from aiokafka.helpers import create_ssl_context

from common.errors import Refusal
from common.settings import KafkaSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

_SSL_FILES = ("kafka_ssl_ca_file", "kafka_ssl_cert_file", "kafka_ssl_key_file", "kafka_ssl_key_password_file")
_PASSWORD_FILE = "kafka_sasl_password_file"  # noqa: S105 - a setting's name


class Credentials(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """Those of one Kafka. A client passes its token provider on to each of its connections: so this gets there."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Read all files; raise `Refusal` for settings or files that cannot be used."""
        self.settings = settings
        protocol = settings.kafka_security_protocol
        self._tls: _Kept[ssl.SSLContext] | None = None
        self._password: _Kept[str] | None = None
        if protocol.endswith("SSL"):
            self._tls = _Kept(settings, _SSL_FILES, lambda: _ssl_context(settings))
        elif given := [name for name in _SSL_FILES if getattr(settings, name) is not None]:
            raise Refusal(
                f"{given[0]} is given, and kafka_security_protocol = {protocol!r} does not encrypt; expected SSL or "
                "SASL_SSL, or none of the kafka_ssl_*_file settings"
            )
        if protocol.startswith("SASL"):
            if settings.kafka_sasl_password_file is None or settings.kafka_sasl_username is None:
                raise Refusal("kafka_sasl_username and kafka_sasl_password_file are needed when the protocol is SASL_*")
            self._password = _Kept(settings, (_PASSWORD_FILE,), lambda: _secret(settings, _PASSWORD_FILE))

    def tls(self) -> ssl.SSLContext | None:
        """Return how to speak TLS, by what the files hold now; None where the protocol does not encrypt."""
        return None if self._tls is None else self._tls.get()

    def password(self) -> str | None:
        """Return what the password's file holds now; None where the protocol or the mechanism needs none."""
        return None if self._password is None else self._password.get()

    async def token(self) -> str:
        """Return a token for OAUTHBEARER."""
        raise NotImplementedError


def of(settings: KafkaSettings) -> Credentials:
    """Return the credentials for a Kafka, the same for all clients of a process; raises `Refusal`."""
    return _shared(*(getattr(settings, name) for name in _NAMES))


_NAMES = [name for name in KafkaSettings.model_fields if name.startswith(("kafka_bootstrap", "kafka_s"))]


@functools.lru_cache(maxsize=8)
def _shared(*values: object) -> Credentials:
    named: dict[str, Any] = dict(zip(_NAMES, values, strict=True))
    return Credentials(KafkaSettings.model_construct(**named))


class _Kept(Generic[T]):
    """What is made of files: made again when they have changed, kept while they cannot be used."""

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


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    files = {
        "cafile": settings.kafka_ssl_ca_file,
        "certfile": settings.kafka_ssl_cert_file,
        "keyfile": settings.kafka_ssl_key_file,
    }
    # Without any password OpenSSL would ask for that of an encrypted key on the terminal, and wait there.
    password = _secret(settings, "kafka_ssl_key_password_file") if settings.kafka_ssl_key_password_file else ""
    try:
        context: ssl.SSLContext = create_ssl_context(
            **{k: str(v) if v else None for k, v in files.items()}, password=password
        )
    except (OSError, ssl.SSLError) as error:
        raise Refusal(
            f"kafka_ssl_*_file: {error}; expected PEM files that this process may read, a key that belongs to the "
            "certificate, and its password in kafka_ssl_key_password_file if it is encrypted"
        ) from error
    return context


def _secret(settings: KafkaSettings, name: str) -> str:
    """Return the content of a file that a setting names; it is never part of a message."""
    path: Path = getattr(settings, name)
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not text in UTF-8"
        raise Refusal(f"{name} = {str(path)!r}: {why}; expected a file that holds the password") from error
