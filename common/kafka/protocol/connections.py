# SPDX-License-Identifier: Apache-2.0
"""Connections of aiokafka's clients, each with the credentials as they are when it is opened; in force by `install`.

aiokafka keeps password and TLS context in the client, for as long as that lives, and hides why a connection fails: a
wrong password, an untrusted certificate and a broker that is down are all "no connection". Here the reason is kept, so
that the caller that sees the failure can report it (`why_not`).
"""

import asyncio
import functools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import client
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError, KafkaError, SaslAuthenticationFailed
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest

from common.kafka.auth.credentials import Credentials
from common.kafka.protocol.connect_errors import explain

log = logging.getLogger(__name__)

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
    """One connection; it proves itself again before the broker's patience ends (KIP-368, `connections.max.reauth.ms`).

    aiokafka never does: the broker breaks such a connection off at the next request, whatever it carries. Here the
    first request that comes when most of the session's lifetime is over waits, with all behind it, until that is done.
    What was sent before is answered before: a broker takes the requests of a connection one after the other.
    """

    _sasl_oauth_token_provider: Credentials
    _due = math.inf
    _proving: asyncio.Task[None] | None = None

    async def _do_sasl_handshake(self) -> None:
        self._sasl_plain_password = self._sasl_oauth_token_provider.password()
        self._due = math.inf
        await super()._do_sasl_handshake()

    def send(self, request: Any, expect_response: bool = True) -> Awaitable[Any]:
        """Send a request; return what its answer will be."""
        sent = functools.partial(super().send, request, expect_response)
        if isinstance(request, SaslAuthenticateRequest):
            return self._authenticate(sent)
        if isinstance(request, SaslHandShakeRequest) or (self._proving is None and time.monotonic() < self._due):
            return sent()  # type: ignore[no-any-return]
        return self._send_later(sent)

    async def _authenticate(self, sent: Callable[[], Awaitable[Any]]) -> Any:
        began = time.monotonic()
        answer = await sent()
        if self._sasl_mechanism == "OAUTHBEARER" and answer.sasl_auth_bytes:
            # How a token is refused (RFC 7628, section 3.2.2). aiokafka takes it for a welcome.
            raise SaslAuthenticationFailed(answer.sasl_auth_bytes.decode(errors="replace"))
        lifetime = getattr(answer, "session_lifetime_ms", 0) / 1000
        if lifetime > 0:
            # As Kafka's own client: not all connections at once, and a broker lets nobody do it twice a second.
            self._due = began + max(lifetime * random.uniform(0.85, 0.95), 1.1)  # noqa: S311 - jitter, no secret
        return answer

    async def _send_later(self, sent: Callable[[], Awaitable[Any]]) -> Any:
        if self._proving is None:
            self._proving = asyncio.create_task(self._prove(), name="kafka-reauthenticate")
            # The caller that waits for it gets its error; without one, nobody needs it.
            self._proving.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A caller that gives up waiting must not leave it half done.
        await asyncio.shield(self._proving)
        return await sent()

    async def _prove(self) -> None:
        try:
            await self._do_sasl_handshake()
        except Exception as error:
            # To the waiting caller this is a lost connection: the next one says why.
            log.warning("%s:%s: not authenticated again: %s", self.host, self.port, error)
            self.close(CloseReason.AUTH_FAILURE, error)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} closed") from error
        finally:
            self._proving = None

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:
        """Close it; a broker that breaks it off may have been asked by a protocol that it does not speak there.

        A broker that refuses a password hangs up, too: if the hang-up is seen last, it must not hide the refusal.
        """
        if reason == CloseReason.CONNECTION_BROKEN and exc is not None and self._reader is not None:
            _note(self._sasl_oauth_token_provider, f"{self.host}:{self.port}", exc)
        if reason != CloseReason.SHUTDOWN and self._writer is not None:
            # Nothing is under way that matters, and TLS would wait 30 s for the other side to say goodbye.
            self._writer.transport.abort()
        return super().close(reason, exc)
