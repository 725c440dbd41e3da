# SPDX-License-Identifier: Apache-2.0
"""`zonemeter cidrs import aws|gcp|azure FILE...`: a CIDR map out of what a cloud says of its own networks.

Files only, saved by a person who has credentials. Exit status 0, also where nothing changes; 2 for a file that cannot
be read as what it should be: then nothing is written.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field
from pydantic_settings import CliPositionalArg

from common import clock
from common.amounts import counted
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.files import read_named, sync_directory
from common.settings import Settings
from common.terminal import say
from enricher.index.cidrs import MAX_MAP_BYTES, Cidr, load_cidr_map, read_cidr_map
from history.cidrs.clouds import CloudName, entries
from history.cidrs.published import is_published, ranges
from history.model.time_range import Instant, parse_instant, timestamp
from history.range_settings import Words

# What a large network's interfaces take.
MAX_IMPORT_BYTES = 256 * 1024 * 1024
_FIELDS = ("name", "zone", "region", "zone_id")


class CidrsImportSettings(Settings):
    """Make a CIDR map of what a cloud's command line saved: subnets give zones, interfaces and instances names."""

    cloud: CliPositionalArg[CloudName] = Field(description="aws, gcp or azure")
    file: CliPositionalArg[list[Path]] = Field(description="JSON that the cloud's command line printed")
    cidr_map: Path | None = Field(
        None, description="the map to write, TOML; without it only what would change is shown"
    )
    by_hand: Path | None = Field(None, description="a map of your own: its entries stay, and come before the cloud's")
    at: Instant | None = Field(None, description="when the files were saved; now is the default")
    vpc: Words = Field([], description="aws: only these VPCs, comma-separated")
    region: Words = Field([], description="only these regions of published ranges, comma-separated")


@entry_point("cidrs import", CidrsImportSettings)
def import_(settings: CidrsImportSettings) -> int:
    """Import; return the exit status."""
    now_ms = clock.now_ms()
    at_ms = parse_instant(settings.at or "now", now_ms)
    if at_ms > now_ms:
        raise Refusal(f"at = {settings.at!r} lies in the future: it is when the files were saved")
    documents = [(str(path), _read(path)) for path in settings.file]
    published = [each for each in documents if is_published(each[1])]
    found = entries(settings.cloud, [each for each in documents if each not in published], settings.vpc)
    found += ranges(settings.cloud, published, settings.region, [each.cidr for each in found])
    if not found:
        files = ", ".join(map(str, settings.file[:3]))
        of = f" of vpc {', '.join(settings.vpc)}" if settings.vpc else ""
        raise Refusal(f"{files}: no network{of}, and no interface of a managed service")
    own = [] if settings.by_hand is None else list(load_cidr_map(settings.by_hand, "by_hand").entries)
    wanted = [*own, *(each for each in found if each.cidr not in {mine.cidr for mine in own})]
    path = settings.cidr_map
    before = [] if path is None or not _is_there(path) else list(load_cidr_map(path, "cidr_map").entries)
    content = _toml(wanted, settings, at_ms)
    changes = _changes(before, wanted)
    say(*changes, f"{counted(len(wanted), 'entry').replace('entrys', 'entries')}, {len(changes)} changed")
    if path is None:
        say("nothing is written without --cidr-map FILE")
    elif changes:
        _write(path, content, at_ms, kept=bool(before))
    return 0


def _read(path: Path) -> Any:
    try:
        return orjson.loads(read_named("file", path, "JSON that the cloud's command line printed", MAX_IMPORT_BYTES))
    except orjson.JSONDecodeError as error:
        raise Refusal(f"{path}: not JSON: {error}; is the file whole?") from error


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # such as a name that is too long
        raise Refusal(f"cidr_map = '{path}': {error.strerror}") from error


def _changes(before: Sequence[Cidr], after: Sequence[Cidr]) -> list[str]:
    """Return what changes, a line for each network."""
    old, new = ({each.cidr: each for each in which} for which in (before, after))
    found = []
    for cidr in [*new, *(cidr for cidr in old if cidr not in new)]:
        was, now = old.get(cidr), new.get(cidr)
        if was is None and now is not None:
            found.append(f"new      {cidr}  {now.name}  {_place(now)}")
        elif now is None and was is not None:
            found.append(f"gone     {cidr}  {was.name}  {_place(was)}")
        elif was is not None and now is not None and was != now:
            parts = [f"{name} {getattr(was, name) or '-'} -> {getattr(now, name) or '-'}" for name in _FIELDS]
            parts = [
                part for name, part in zip(_FIELDS, parts, strict=True) if getattr(was, name) != getattr(now, name)
            ]
            found.append(f"changed  {cidr}  {now.name}  {', '.join(parts)}")
    return found


def _place(entry: Cidr) -> str:
    return "external" if entry.external else entry.zone or "no zone"


def _toml(wanted: Sequence[Cidr], settings: CidrsImportSettings, at_ms: int) -> bytes:
    lines = [f"# As of {timestamp(at_ms)} UTC, by zonemeter cidrs import {settings.cloud}."]
    for each in wanted:
        lines += ["", "[[cidr]]", f"cidr = {_quoted(each.cidr)}"]
        lines += [f"{name} = {_quoted(value)}" for name in _FIELDS if (value := getattr(each, name)) is not None]
        lines += [f"{name} = true" for name in ("ours", "external") if getattr(each, name)]
    content = "\n".join([*lines, ""]).encode()
    if len(content) > MAX_MAP_BYTES:
        raise Refusal(f"the map would have {len(content):,} bytes, more than the enricher takes; choose --vpc")
    read_cidr_map(content, "cidrs.toml")
    return content


def _quoted(text: str) -> str:
    r"""Return a TOML basic string: JSON's escapes are TOML's, but for DEL, which TOML wants escaped."""
    return orjson.dumps(text).decode().replace("\x7f", "\\u007f")


def _write(path: Path, content: bytes, at_ms: int, *, kept: bool) -> None:
    """Write the map whole, or not at all; what was in force until then is kept beside it, by the time."""
    until = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    former, made = path.with_name(f"{path.stem}.until-{until}{path.suffix}"), path.with_name(f".{path.name}.new")
    if kept and former.exists():
        raise Refusal(f"{former} is there already: an import of that time was made; say --at")
    try:
        with made.open("wb") as file:
            file.write(content)
            file.flush()
            # Else a power cut may leave the name with nothing in it, and the enricher without a map.
            os.fsync(file.fileno())
        if kept:
            os.link(path, former)
            say(f"what was in force until then is {former}")
        made.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise Refusal(f"cidr_map = '{path}': {error.strerror}") from error
