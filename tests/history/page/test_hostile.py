# SPDX-License-Identifier: Apache-2.0
"""Names are data: whatever a record says, a page has the elements and attributes that it has for any other name."""

from collections import Counter
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.result import Audit, Gap
from history.model.bill import price_summary
from history.model.party import MeterTraffic, Party
from history.model.states.events import Event
from history.model.states.ready import Group
from history.model.summary import Summary, Traffic
from history.model.time_range import TimeRange
from history.report.data import Difference, Differences, Range, Report
from history.report.page import layout
from prices.file import shipped
from tests.support.history.html import parsed, text_of

GB = 10**9
NAMES = {
    "a script": "<script>alert(1)</script>",
    "an end of the script": "</script><img src=x onerror=alert(1)>",
    "an end of the style": "</style><script>alert(1)</script>",
    "quotes": '"\' onmouseover="alert(1)" x=\'',
    "an end of CDATA": "]]><svg onload=alert(1)>",
    "a comment": "--><b><!--",
    "a reference": "&lt;b&gt;&#60;&amp;quot;",
    "a template": "{{ 7 * 7 }}{% raw %}",
    "an address": "javascript:alert(1)",
    "253 characters": "x" * 253,
}
# What a terminal would obey, hide or put elsewhere: a page shows a question mark, as text does.
UNSHOWN = {
    "bidirectional": ("evil\u202etxt.exe", "evil?txt.exe"),
    "isolates": ("a\u2066b\u2069", "a?b?"),
    "escapes": ("\x1b[2J\x9b", "?[2J?"),
    "without width": ("a\u200bb\ufeff", "a?b?"),
    "lines": ("two\r\nlines\u2028", "two??lines?"),
    "nothing": ("\x00", "?"),
}


def made(name: str) -> Report:
    """Return a report in which every name is that one."""
    ends = [Party(f"{name}/{name}/{name}", "pod", name, zone, name, "", "") for zone in (f"{name}1", f"{name}2")]
    nobody = Party("unknown", "unknown", "", "", "", "", name)
    summary = Summary(flows=1, clusters={name}, windows={(0, 60_000)})
    summary.traffic |= {
        Traffic("cross_zone", ends[0], ends[1], True): GB,
        Traffic("unknown", nobody, nobody, False): GB,
    }
    change = Event(30_000, Group(name, name, name), "scaled", name)
    summary.slots |= {(0, "cross_zone"): GB, (0, "unknown"): GB}
    return Report(
        Range(TimeRange(0, 60_000), summary, price_summary(summary, shipped("aws"))),
        [name],
        name,
        MeterTraffic(name),
        5,
        audit=Audit(gaps=[Gap(name, 0, 30_000, name)], nodes_in_cluster={name}),
        by="namespace",
        filters={"namespace": [name]},
        events=[change],
        differences=Differences([Difference(name, name, 2, 1, 1, 0, [change])], 1, name),
        compare=name,
        range_flags=name,
    )


def shape(element: Element) -> Counter[tuple[str, ...]]:
    """Return the elements of a page with the names of their attributes, but for what sets the end of a/b/c apart."""
    return Counter((each.tag, *sorted(each.attrib)) for each in element.iter() if each.tag not in ("small", "wbr"))


PLAIN = shape(parsed(layout.document(made("plain"))))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    shown = parsed(layout.document(made(name)))
    assert shape(shown) == PLAIN
    assert " ".join(name.split()) in text_of(shown)
    (script,), (style,) = (list(shown.iter(tag)) for tag in ("script", "style"))
    assert "alert(1)" not in f"{script.text}{style.text}"


@pytest.mark.parametrize(("name", "seen"), UNSHOWN.values(), ids=UNSHOWN)
def test_a_page_obeys_and_hides_nothing(name: str, seen: str) -> None:
    document = layout.document(made(name))
    shown = parsed(document)
    assert shape(shown) == PLAIN
    assert seen in text_of(shown)
    assert {each for each in document if not each.isprintable()} == {"\n"}


@settings(max_examples=25)
@given(st.text(max_size=30))
def test_any_name(name: str) -> None:
    shown = shape(parsed(layout.document(made(f"n{name}"))))
    assert shown == PLAIN
