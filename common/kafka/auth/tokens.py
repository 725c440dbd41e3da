# SPDX-License-Identifier: Apache-2.0
"""Where tokens for OAUTHBEARER come from: a file that somebody renews, a command, or AWS's library for MSK.

A token is asked for whenever a connection is opened or proves itself again. A file is read each time. What a command or
AWS gave serves all that ask within some seconds: a service that starts opens several connections at once.
"""

import asyncio
import importlib.util
import re
import shlex
import shutil
import time
from collections.abc import Callable, Coroutine
from typing import Any

from aiokafka.errors import KafkaError

from common.errors import Refusal
from common.input import command
from common.kafka.auth.reloading import Reloading, secret
from common.settings import KafkaSettings

SOURCES = ("kafka_sasl_token_file", "kafka_sasl_token_command", "kafka_sasl_msk_region")
REUSED_SECONDS = 10.0
COMMAND_SECONDS = 10.0
MAX_TOKEN_BYTES = 64 * 1024
# RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_EXPECTED = "expected a bearer token, such as a JWT, and nothing else"

Source = Callable[[], Coroutine[Any, Any, str]]


class NoTokenError(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """No token now; its text is one line that says why and names the setting."""

    def __str__(self) -> str:
        return str(self.args[0])


def source(settings: KafkaSettings) -> Source:
    """Return what gives tokens: a function that raises `NoTokenError`. Raises `Refusal` for settings without sense."""
    given = [name for name in SOURCES if getattr(settings, name) is not None]
    if len(given) != 1:
        raise Refusal(
            f"kafka_sasl_mechanism = 'OAUTHBEARER' takes its tokens from one of {', '.join(SOURCES)}; "
            f"given: {', '.join(given) or 'none'}"
        )
    if settings.kafka_sasl_token_file is not None:
        return _file(settings)
    if settings.kafka_sasl_token_command is not None:
        return _reused(_command(settings.kafka_sasl_token_command))
    return _reused(_msk(str(settings.kafka_sasl_msk_region)))


def _file(settings: KafkaSettings) -> Source:
    name = "kafka_sasl_token_file"

    def read() -> str:
        token = secret(settings, name, "token")
        if not _is_token(token):
            raise Refusal(f"{name} = {str(settings.kafka_sasl_token_file)!r}: {_EXPECTED}")
        return token

    kept = Reloading(settings, (name,), read)

    async def get() -> str:
        return kept.get()

    return get


def _command(line: str) -> Source:
    name = f"kafka_sasl_token_command = {line!r}"
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Refusal(f"{name}: {error}; expected a program and its arguments, quoted as for a shell") from error
    if not words or shutil.which(words[0]) is None:
        raise Refusal(f"{name}: no such program; expected one that prints a token; no shell runs it")

    async def get() -> str:
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                out = await command.run(words, MAX_TOKEN_BYTES)
        except TimeoutError:
            raise NoTokenError(f"{name}: did not end within {COMMAND_SECONDS:g} s") from None
        except command.CommandError as error:
            raise NoTokenError(f"{name}: {error}") from error
        token = out.decode(errors="replace").strip()
        if not _is_token(token):
            raise NoTokenError(f"{name}: printed {len(out)} bytes that are not a token; {_EXPECTED}")
        return token

    return get


def _msk(region: str) -> Source:
    name = f"kafka_sasl_msk_region = {region!r}"
    if not re.fullmatch(r"[a-z]{2}(-[a-z0-9]+)+", region):
        raise Refusal(f"{name}: expected the AWS region of the MSK cluster, such as eu-west-1")
    if importlib.util.find_spec("aws_msk_iam_sasl_signer") is None:
        raise Refusal(f"{name}: aws-msk-iam-sasl-signer-python is not installed; expected zonemeter[msk]")

    def sign() -> str:
        # Some 100 modules: only for those who use it.
        signer: Any = importlib.import_module("aws_msk_iam_sasl_signer.MSKAuthTokenProvider")
        token, _ = signer.generate_auth_token(region)
        return str(token)

    async def get() -> str:
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                return await asyncio.to_thread(sign)
        except TimeoutError:
            raise NoTokenError(f"{name}: AWS gave no credentials within {COMMAND_SECONDS:g} s") from None
        except Exception as error:
            # botocore's own errors, and what the library makes of there being no credentials.
            raise NoTokenError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error

    return get


def _reused(get: Source) -> Source:
    running: asyncio.Task[str] | None = None
    asked = 0.0

    def serves(task: asyncio.Task[str]) -> bool:
        if task.get_loop() is not asyncio.get_running_loop() or time.monotonic() - asked > REUSED_SECONDS:
            return False
        return not task.done() or (not task.cancelled() and task.exception() is None)

    async def reuse() -> str:
        nonlocal running, asked
        if running is None or not serves(running):
            asked, running = time.monotonic(), asyncio.create_task(get(), name="kafka-token")
        # A caller that gives up waiting must not take it from the others.
        return await asyncio.shield(running)

    return reuse


def _is_token(text: str) -> bool:
    return len(text) <= MAX_TOKEN_BYTES and _TOKEN.fullmatch(text) is not None
