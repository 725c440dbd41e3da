# SPDX-License-Identifier: Apache-2.0
import threading

from common.errors import Refusal
from doctor.checks import Check, Finding, UnclearError, ok, run_checks


def refuse() -> list[Finding]:
    raise Refusal("no such thing: make one")


def crash() -> list[Finding]:
    raise KeyError("lost\nkey")


def cannot_say() -> list[Finding]:
    raise UnclearError("nobody knows")


def test_no_check_keeps_another_from_answering() -> None:
    never = threading.Event()
    checks = [
        Check("hangs", lambda: ok("hangs", str(never.wait()))),
        Check("refuses", refuse),
        Check("crashes", crash),
        Check("cannot say", cannot_say),
        Check("two", lambda: ok("one", "1") + ok("other", "2")),
    ]
    found = run_checks(checks, 0.3)
    never.set()
    assert found == [
        ("hangs", Finding("hangs", "??", "no answer within 0.3 s")),
        ("refuses", Finding("refuses", "no", "no such thing: make one")),
        ("crashes", Finding("crashes", "??", "cannot be looked at: 'lost\\nkey'")),
        ("cannot say", Finding("cannot say", "??", "nobody knows")),
        ("two", Finding("one", "ok", "1")),
        ("two", Finding("other", "ok", "2")),
    ]


def test_nothing_to_look_at_is_nothing_found() -> None:
    assert run_checks([], 1.0) == []
