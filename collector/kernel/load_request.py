# SPDX-License-Identifier: Apache-2.0
"""Asking the loader: what is asked and answered, and the short-lived process that does it."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Literal

import msgspec

from collector.errors import LoadError
from collector.kernel.networks import ExternalAddresses
from schemas.raw import Hook

log = logging.getLogger(__name__)

_PROJECT = Path(__file__).resolve().parents[2]
_SECONDS = 120  # LLVM on a busy small node; 1 s on a free one


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to load. Every field shapes what is counted or how it is named, so every field is part of the digest."""

    pin_dir: str
    cluster: str
    node: str
    boot_id: str
    map_memory: int
    ports: Literal["service", "full"]
    service_ports: list[int]
    hook: Hook = "netfilter"
    cluster_cidrs: list[str] = []
    external_addresses: ExternalAddresses = "full"
    direct_loads: bool = True  # where the kernel takes them; False is for tests and for comparison


class Answer(msgspec.Struct, frozen=True):
    """The generation to count with; `active` if it counts already, else the collector activates it."""

    generation: int
    active: bool


async def load(request: Request) -> Answer:
    """Run the loader in this process's network namespace; raise `LoadError` with its line if it cannot."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "collector.kernel.loader",
        cwd=_PROJECT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            answer, said = await process.communicate(msgspec.json.encode(request))
    except TimeoutError as error:
        raise LoadError(f"the loader did not answer within {_SECONDS} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = said.decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        for line in lines[:-1]:
            log.error("loader: %s", line)
        raise LoadError(lines[-1] if lines else f"the loader ended with status {process.returncode}")
    if lines:
        log.warning("loader: %s", lines[-1])
    return msgspec.json.decode(answer, type=Answer)
