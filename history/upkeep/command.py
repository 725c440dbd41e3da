# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive compact|expire|erase-addresses`: few, sorted files in the place of many; what is old goes.

Exit status 0 if all was done that there was to do, 2 for wrong use, or if an hour could not be compacted.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from common.amounts import counted, human
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.durations import parse_duration
from common.input.files import scratch
from common.input.locations import without_secrets
from common.terminal import complain, say
from history.model.time_range import TimeRange, parse_since, timestamp
from history.read import interrupts
from history.read.archive.opened import FlowArchive, ReadAgain, StoreAway
from history.upkeep.compact import Taken
from history.upkeep.expire import (
    WRITTEN_MS,
    BeingWritten,
    StoredHour,
    chosen,
    roll_up_late,
    rolled_up_hours,
    stored_hours,
)
from history.upkeep.expire import expire as expire_hour
from history.upkeep.run import Run, hours_to_compact, hours_to_erase
from history.upkeep.settings import CompactSettings, EraseSettings, ExpireSettings, open_archive


@entry_point("archive compact", CompactSettings)
def main(settings: CompactSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = time.time_ns() // 1_000_000
    settings.check()
    with interrupts.kept():
        archive = open_archive(settings)
        run = Run("compact", settings, archive)
        run.compact(hours_to_compact(archive, settings, now_ms))
        since_ms = parse_since(settings.since, now_ms)
        run.roll_up_days(TimeRange(since_ms, now_ms - parse_duration(settings.min_age)))
        run.forget_manifests(TimeRange(since_ms, now_ms), now_ms - parse_duration(settings.keep_manifests))
        run.roll_up_again(now_ms)
        return run.end()


@entry_point("archive erase-addresses", EraseSettings)
def erase(settings: EraseSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = time.time_ns() // 1_000_000
    settings.check()
    with interrupts.kept():
        archive = open_archive(settings)
        run = Run("erase-addresses", settings, archive)
        run.compact(hours_to_erase(archive, settings, now_ms))
        run.roll_up_again(now_ms)
        return run.end()


@entry_point("archive expire", ExpireSettings)
def expire(settings: ExpireSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = time.time_ns() // 1_000_000
    with interrupts.kept():
        archive, place = open_archive(settings), without_secrets(settings.archive)
        try:
            there = stored_hours(archive)
            newest_ms = None if settings.newest_too else archive.until_ms or None
            keep_ms = parse_duration(settings.keep)
            if there and newest_ms is not None and newest_ms + max(keep_ms, WRITTEN_MS) <= now_ms:
                raise Refusal(_all_too_old(f"{place}: all flows are older than --keep", newest_ms, now_ms))
            hours = chosen(there, now_ms, keep_ms, settings.max_size, newest_ms)
            if not settings.dry_run:
                hours = [hour for hour in hours if _expired(archive, hour, now_ms)]
            keep_rollups_ms = parse_duration(settings.keep_rollups)
            rolled_up = rolled_up_hours(archive, now_ms - keep_rollups_ms)
            if rolled_up and newest_ms is not None and newest_ms + keep_rollups_ms <= now_ms:
                raise Refusal(_all_too_old(f"{place}: all rollups are older than --keep-rollups", newest_ms, now_ms))
            for hour in [] if settings.dry_run else rolled_up:
                expire_hour(archive, hour, rollups=False)
        except Taken:
            raise Refusal(
                f"archive {without_secrets(settings.archive)}: another process changed it meanwhile; run it again"
            ) from None
        except OSError as error:
            raise Refusal(f"archive {place}: {error}") from error
    left = sum(hour.size_bytes for hour in there) - sum(hour.size_bytes for hour in hours)
    done = "would delete" if settings.dry_run else "deleted"
    if hours:
        size = human(sum(hour.size_bytes for hour in hours))
        say(f"{done} {_hours_named(hours)}, {size}; {human(left)} stay")
    else:
        say(f"nothing to delete: {counted(len(there), 'hour')} of {human(left)} stay")
    if rolled_up:
        say(f"{done} the rollups of {_hours_named(rolled_up)}")
    return 0


def _all_too_old(what: str, newest_ms: int, now_ms: int) -> str:
    return (
        f"archive {what}: the newest flows are of {timestamp(newest_ms)} UTC, and this machine's clock says "
        f"{timestamp(now_ms)}; if that is right, and no flow log writes there any more, say --newest-too"
    )


def _expired(archive: FlowArchive, hour: StoredHour, now_ms: int) -> bool:
    """Delete an hour, with its rollups if these are not of all its flows; return whether that was done."""
    rollups = True
    try:
        with scratch("zonemeter-expire-") as spill:
            roll_up_late(archive, hour, Path(spill), now_ms)
    except (ReadAgain, StoreAway):
        raise
    except BeingWritten as error:
        # Rollups of years must not go because a manifest comes a second later.
        complain(f"zonemeter archive expire: {error}; {hour.name} stays for now: the next run looks again")
        return False
    except Refusal as error:
        # Nothing may keep flows beyond their time.
        complain(f"zonemeter archive expire: {error}; the rollups of {hour.name} go with it")
        rollups = False
    expire_hour(archive, hour, rollups=rollups)
    return True


def _hours_named(hours: Sequence[StoredHour]) -> str:
    return f"{counted(len(hours), 'hour')}, {hours[0].name} to {hours[-1].name}"
