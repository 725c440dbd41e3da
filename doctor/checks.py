# SPDX-License-Identifier: Apache-2.0
"""Checks of a host or a pipeline, and running them so that none keeps the others from answering.

What is checked is the rooms' business; how findings are shown is the command's.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from common.errors import Refusal

Status = Literal["ok", "no", "??"]


class UnclearError(Exception):
    """Nothing can be told; its text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look came to. `no` is a fault; `??` is what cannot be told, or may be meant so. `todo` may be empty."""

    check: str
    status: Status
    found: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at. `look` may block, and may raise: `Refusal` is a fault, all else is what cannot be told."""

    name: str
    look: Callable[[], list[Finding]]


def ok(check: str, found: str) -> list[Finding]:
    """Return one finding: as it should be."""
    return [Finding(check, "ok", found)]


def fault(check: str, found: str, todo: str = "") -> list[Finding]:
    """Return one finding: not as it should be."""
    return [Finding(check, "no", found, todo)]


def unclear(check: str, found: str, todo: str = "") -> list[Finding]:
    """Return one finding: nobody can tell from here."""
    return [Finding(check, "??", found, todo)]


def run_checks(checks: Sequence[Check], deadline_seconds: float) -> list[tuple[str, Finding]]:
    """Look at everything at once; return (check, finding) in the order of `checks`, after the deadline at the latest.

    A look that hangs goes on in a thread that does not keep the process alive.
    """
    done: queue.SimpleQueue[tuple[int, list[Finding]]] = queue.SimpleQueue()
    for number, check in enumerate(checks):
        threading.Thread(target=_look, args=(done, number, check), name=check.name, daemon=True).start()
    answers: dict[int, list[Finding]] = {}
    end = time.monotonic() + deadline_seconds
    while len(answers) < len(checks):
        try:
            number, findings = done.get(timeout=max(end - time.monotonic(), 0.001))
        except queue.Empty:
            break
        answers[number] = findings
    late = f"no answer within {deadline_seconds:g} s"
    return [
        (check.name, finding)
        for number, check in enumerate(checks)
        for finding in answers.get(number, unclear(check.name, late))
    ]


def _look(done: "queue.SimpleQueue[tuple[int, list[Finding]]]", number: int, check: Check) -> None:
    try:
        findings = check.look()
    except Refusal as refusal:
        findings = fault(check.name, str(refusal))
    except UnclearError as error:
        findings = unclear(check.name, str(error))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here must not take the other checks with it
        findings = unclear(check.name, f"cannot be looked at: {' '.join(str(error).split()) or type(error).__name__}")
    done.put((number, findings))
