# SPDX-License-Identifier: Apache-2.0
"""What a command prints that settings or a kubeconfig name: bounded in size, and nothing of it lives on."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence


class CommandError(Exception):
    """It gave nothing that can be used; its text says in one line what it did: "ended with status 3: log in"."""


async def run(words: Sequence[str], max_bytes: int, env: Mapping[str, str] | None = None) -> bytes:
    """Return what a command printed; when cancelled, or beyond the bound, end it with all that it started.

    The caller brings a deadline. Nothing comes in by stdin. Raises `CommandError` if it does not start, prints more
    than `max_bytes` to stdout or stderr, or ends with a status other than 0.
    """
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=nothing, stdout=pipe, stderr=pipe, env=env, start_new_session=True
        )
    except OSError as error:
        raise CommandError(f"does not start: {error.strerror}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    ended = False
    try:
        out, err = await asyncio.gather(_bounded(process.stdout, max_bytes), _bounded(process.stderr, max_bytes))
        status, ended = await process.wait(), True
    finally:
        if not ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # Else its pipes stay open for as long as anything that it started lives on.
            process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
            await process.wait()
    if status != 0:
        said = err.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise CommandError(f"ended with status {status}: {said}")
    return out


async def _bounded(stream: asyncio.StreamReader, max_bytes: int) -> bytes:
    read = b""
    while part := await stream.read(max_bytes):
        read += part
        if len(read) > max_bytes:
            raise CommandError(f"printed more than {max_bytes} bytes")
    return read
