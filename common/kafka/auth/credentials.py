# SPDX-License-Identifier: Apache-2.0
"""What proves to Kafka who a process is, and whom it trusts: from files that are read again for each connection.

To rotate a password, a certificate, a key, a CA or a token is to replace its file, as Kubernetes does with a mounted
Secret: the next connection uses the new one, and open connections stay as they are. A file that can no longer be used
(gone, half written, a key that belongs to another certificate) stops nothing: what it held before is used, and the log
says so.
"""

import functools
import re
import ssl
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.helpers import create_ssl_context

from common.errors import Refusal
from common.input.files import read_bounded
from common.kafka.auth import tokens
from common.kafka.auth.reloading import Reloading, secret
from common.settings import KafkaSettings

_SSL_FILES = ("kafka_ssl_ca_file", "kafka_ssl_cert_file", "kafka_ssl_key_file", "kafka_ssl_key_password_file")
_PASSWORD = ("kafka_sasl_username", "kafka_sasl_password_file")
_TOKEN = (*tokens.SOURCES, "kafka_sasl_extensions")


class Credentials(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """Those of one Kafka. A client passes its token provider on to each of its connections: so this gets there."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Read all files; raise `Refusal` for settings or files that cannot be used."""
        self.settings = settings
        protocol = settings.kafka_security_protocol
        self._tls: Reloading[ssl.SSLContext] | None = None
        self._password: Reloading[str] | None = None
        self._extensions: dict[str, str] = {}
        if protocol.endswith("SSL"):
            self._tls = Reloading(settings, _SSL_FILES, lambda: _ssl_context(settings))
        elif given := [name for name in _SSL_FILES if getattr(settings, name) is not None]:
            raise Refusal(
                f"{given[0]} is given, and kafka_security_protocol = {protocol!r} does not encrypt; expected SSL or "
                "SASL_SSL, or none of the kafka_ssl_*_file settings"
            )
        self._token: tokens.Source | None = None
        if protocol.startswith("SASL"):
            self._sasl(settings)
        elif given := [name for name in (*_PASSWORD, *_TOKEN) if getattr(settings, name) is not None]:
            raise Refusal(
                f"{given[0]} is given, and kafka_security_protocol = {protocol!r} does not authenticate with it; "
                "expected SASL_SSL or SASL_PLAINTEXT, or none of the kafka_sasl_* settings"
            )

    def _sasl(self, settings: KafkaSettings) -> None:
        mechanism = settings.kafka_sasl_mechanism
        needed, useless = (_TOKEN, _PASSWORD) if mechanism == "OAUTHBEARER" else (_PASSWORD, _TOKEN)
        if given := [name for name in useless if getattr(settings, name) is not None]:
            raise Refusal(
                f"{given[0]} is given, and kafka_sasl_mechanism = {mechanism!r} has no use for it; "
                f"expected another mechanism, or {', '.join(needed)}"
            )
        if mechanism == "OAUTHBEARER":
            self._token = tokens.source(settings)
            self._extensions = _extensions(settings.kafka_sasl_extensions)
        elif missing := [name for name in _PASSWORD if getattr(settings, name) is None]:
            raise Refusal(f"{missing[0]} is not set; kafka_sasl_mechanism = {mechanism!r} needs {', '.join(_PASSWORD)}")
        else:
            self._password = Reloading(settings, (_PASSWORD[1],), lambda: secret(settings, _PASSWORD[1]))

    def tls(self) -> ssl.SSLContext | None:
        """Return how to speak TLS, by what the files hold now; None where the protocol does not encrypt."""
        return None if self._tls is None else self._tls.get()

    def password(self) -> str | None:
        """Return what the password's file holds now; None where the protocol or the mechanism needs none."""
        return None if self._password is None else self._password.get()

    async def token(self) -> str:
        """Return a token for OAUTHBEARER; raises `NoTokenError`."""
        assert self._token is not None
        return await self._token()

    def extensions(self) -> dict[str, str]:
        """Return what goes with a token (RFC 7628, KIP-342)."""
        return self._extensions


def of(settings: KafkaSettings) -> Credentials:
    """Return the credentials for a Kafka, the same for all clients of a process; raises `Refusal`."""
    return _shared(*(getattr(settings, name) for name in _NAMES))


_NAMES = [name for name in KafkaSettings.model_fields if name.startswith("kafka_s")]


@functools.lru_cache(maxsize=8)
def _shared(*values: object) -> Credentials:
    named: dict[str, Any] = dict(zip(_NAMES, values, strict=True))
    return Credentials(KafkaSettings.model_construct(**named))


def _extensions(text: str | None) -> dict[str, str]:
    pairs = [pair.strip() for pair in (text or "").split(",") if pair.strip()]
    for pair in pairs:
        # Names are letters, values what prints, and "auth" is the token's own (RFC 7628, section 3.1).
        if not re.fullmatch(r"(?!auth=)[A-Za-z]+=[ -~]+", pair):
            raise Refusal(f"kafka_sasl_extensions = {text!r}: expected NAME=VALUE,..., names of letters")
    return dict(pair.split("=", 1) for pair in pairs)


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    files = {
        "cafile": settings.kafka_ssl_ca_file,
        "certfile": settings.kafka_ssl_cert_file,
        "keyfile": settings.kafka_ssl_key_file,
    }
    # Without any password OpenSSL would ask for that of an encrypted key on the terminal, and wait there.
    password = secret(settings, "kafka_ssl_key_password_file") if settings.kafka_ssl_key_password_file else ""
    try:
        for path in filter(None, files.values()):
            read_bounded(path)  # OpenSSL reads them to their ends
        context: ssl.SSLContext = create_ssl_context(
            **{k: str(v) if v else None for k, v in files.items()}, password=password
        )
    except (OSError, ssl.SSLError) as error:
        raise Refusal(
            f"kafka_ssl_*_file: {error}; expected PEM files that this process may read, a key that belongs to the "
            "certificate, and its password in kafka_ssl_key_password_file if it is encrypted"
        ) from error
    return context
