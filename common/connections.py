# SPDX-License-Identifier: Apache-2.0
"""Connections of aiokafka's clients, each with the credentials as they are when it is opened; in force by `install`.

aiokafka keeps password and TLS context in the client, for as long as that lives, and hides why a connection fails: a
wrong password, an untrusted certificate and a broker that is down are all "no connection". Here the reason is kept, so
that whoever hears of a failure can say it (`why_not`).
"""

import time
from typing import Any

from aiokafka import client
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import AuthenticationFailedError, KafkaError

from common.credentials import Credentials
from common.refused import explain

# By address: when a connection last failed (monotonic), and why. Taken back once another succeeds.
_failures: dict[str, tuple[float, str]] = {}
# More than the longest wait between two attempts.
_FRESH_SECONDS = 60.0
_MAX_REMEMBERED = 100


def install() -> None:
    """Let aiokafka use what is here, in every client of this process."""
    client.create_conn = open_connection


def why_not() -> str | None:
    """Return why a connection last failed, if it was lately and none to that broker has succeeded since."""
    since = time.monotonic() - _FRESH_SECONDS
    return max((failure for failure in _failures.values() if failure[0] > since), default=(0.0, None))[1]


async def open_connection(host: str, port: int, **options: Any) -> AIOKafkaConnection:
    """Connect and authenticate, in place of aiokafka's `create_conn`; raises what that raises."""
    credentials = options.get("sasl_oauth_token_provider")
    if not isinstance(credentials, Credentials):
        return await create_conn(host, port, **options)
    try:
        connection = Connection(host, port, **options | {"ssl_context": credentials.tls()})
        await connection.connect()
    except Exception as error:
        _note(credentials, f"{host}:{port}", error)
        if isinstance(error, KafkaError | OSError | TimeoutError):
            raise
        # An answer that is against the protocol. aiokafka's clients survive no other errors than those.
        raise AuthenticationFailedError(f"{type(error).__name__}: {error}") from error
    _failures.pop(f"{host}:{port}", None)
    return connection


def _note(credentials: Credentials, address: str, error: BaseException) -> None:
    if len(_failures) >= _MAX_REMEMBERED:
        _failures.clear()
    _failures[address] = time.monotonic(), explain(credentials.settings, address, error)


class Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka ships no types
    """One connection."""

    _sasl_oauth_token_provider: Credentials

    async def _do_sasl_handshake(self) -> None:
        self._sasl_plain_password = self._sasl_oauth_token_provider.password()
        await super()._do_sasl_handshake()

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:
        """Close it; a broker that breaks it off may have been asked by a protocol that it does not speak there."""
        if reason == CloseReason.CONNECTION_BROKEN and exc is not None:
            _note(self._sasl_oauth_token_provider, f"{self.host}:{self.port}", exc)
        if reason != CloseReason.SHUTDOWN and self._writer is not None:
            # Nothing is under way that matters, and TLS would wait 30 s for the other side to say goodbye.
            self._writer.transport.abort()
        return super().close(reason, exc)
