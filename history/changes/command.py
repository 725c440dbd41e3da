# SPDX-License-Identifier: Apache-2.0
"""`zonemeter changes`: what changed in the cluster, and whether more or less crosses zones since.

Exit status 0, also where nothing changed; 1 if there is nothing to read; 2 for wrong use.
"""

from typing import Literal

from pydantic import Field

from common import clock, terminal
from common.entry_point import entry_point
from history.advise.gather import DEFAULT_SINCE, gather
from history.changes import text
from history.changes.effects import effects
from history.model.states.events import known_events
from history.range_settings import EvidenceSettings
from history.read import interrupts

PROG = "zonemeter changes"


class ChangesSettings(EvidenceSettings):
    """List what changed in the cluster, each with what crossed zones before and after."""

    output: Literal["table", "json"] = Field("table", description="how to print the answer")


@entry_point("changes", ChangesSettings)
def main(settings: ChangesSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = clock.now_ms()
    span = settings.span(PROG, now_ms, DEFAULT_SINCE)
    settings.check()
    found = interrupts.run(gather(settings, span, now_ms))
    known, found.report.events_note = known_events(found.states, span)
    changed = effects(known, found.evidence, found.report.now.bill.book)
    terminal.answer(
        settings.output,
        json=lambda: text.as_dict(found.report, changed),
        table=lambda: text.lines(found.report, changed),
    )
    return 0
