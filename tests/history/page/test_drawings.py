# SPDX-License-Identifier: Apache-2.0
"""Drawings: what is drawn is as large as its number, stands where its time is, and covers nothing else."""

import re
from itertools import pairwise
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from history.model.intervals import between, joined
from history.model.states.ready import Step
from history.page import bars, sankey, steps, timeline
from history.page.scales import LEVELS, level, ticks, time_ticks

HOUR_MS = 3_600_000
GB = 10**9
MIDNIGHT_MS = 1_795_392_000_000


def shapes(drawing: str, kind: str) -> list[Element]:
    """Return the shapes of a class."""
    return [each for each in fromstring(drawing).iter() if (each.get("class") or "").split()[:1] == [kind]]


def numbers(element: Element, *names: str) -> list[float]:
    return [float(element.attrib[name]) for name in names]


@given(st.floats(0, 1e18))
def test_ticks_are_round_and_reach_over_the_largest(largest: float) -> None:
    found = ticks(largest)
    assert found[0] == 0
    assert largest <= found[-1]
    assert 2 <= len(found) <= 6
    assert largest < 10 or found[-1] <= 2 * largest
    step = f"{found[1]:.0e}"
    assert largest < 10 or float(step) == found[1] or found[1] == 2.5 * 10 ** (len(str(int(found[1]))) - 1)


@pytest.mark.parametrize(
    ("hours", "wanted"),
    [
        (1, ["21 Nov", "00:10"]),
        (24, ["21 Nov", "03:00"]),
        (7 * 24, ["21 Nov", "22 Nov"]),
        (90 * 24, ["3 Dec", "17 Dec"]),
    ],
)
def test_times_on_the_clock(hours: int, wanted: list[str]) -> None:
    begin = MIDNIGHT_MS - 2 * 24 * HOUR_MS
    found = [called for _, called in time_ticks(begin, begin + hours * HOUR_MS)]
    assert found[:2] == wanted
    assert 2 <= len(found) <= 11
    at = [at_ms for at_ms, _ in time_ticks(begin + 1, begin + hours * HOUR_MS)]
    assert at[0] > begin, "none before the range"


def test_steps_of_a_colour_are_equal_parts() -> None:
    assert [level(value, 70) for value in (0, 1, 10, 11, 20, 69, 70)] == [0, 1, 1, 2, 2, 7, 7]
    assert level(5, 0) == 0
    assert level(10**30, 10**30) == LEVELS


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)).map(sorted).map(tuple), max_size=8))
def test_what_is_covered_and_what_is_between_are_the_whole(spans: list[tuple[int, int]]) -> None:
    covered = {at for begin, end in spans for at in range(begin, end)}
    left = {at for begin, end in between(joined(spans), (0, 100)) for at in range(begin, end)}
    assert covered | left == {*range(100)}
    assert not covered & left
    merged = joined(spans)
    assert {at for begin, end in merged for at in range(begin, end)} == covered
    assert all(one[1] < other[0] for one, other in pairwise(merged))


FLOWS = st.dictionaries(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), st.integers(1, 10**15), min_size=1, max_size=14
).map(lambda found: [sankey.Flow(*ends, size) for ends, size in found.items()])


@given(FLOWS, st.booleans())
def test_bands_fill_their_ends_and_ends_do_not_touch(flows: list[sankey.Flow], has_rest: bool) -> None:
    if has_rest:
        flows = [*flows, sankey.Flow("3 others", "2 others", 10**9, rest=True)]
    placed = sankey.layout(flows)
    for ends, side in ((placed.sources, "source"), (placed.destinations, "destination")):
        assert sum(end.bytes for end in ends) == sum(flow.bytes for flow in flows)
        assert all(upper.top + upper.height <= lower.top for upper, lower in pairwise(ends))
        assert placed.height >= ends[-1].top + ends[-1].height
        assert [end.rest for end in ends] == sorted(end.rest for end in ends), "the rest is last"
        for end in ends:
            at = "left" if side == "source" else "right"
            mine = sorted(
                (getattr(band, at), band.thick)
                for band in placed.bands
                if getattr(band.flow, side) == end.name and band.flow.rest == end.rest
            )
            assert mine[0][0] == pytest.approx(end.top)
            for (one, thick), (other, _) in pairwise(mine):
                assert other == pytest.approx(one + thick)


def test_little_crosses() -> None:
    """The greatest sender's receiver is on top, though it also gets from all others."""
    flows = [sankey.Flow("db", "api", 79), sankey.Flow("api", "web", 56), *(sankey.Flow(x, "api", 10) for x in "xyz")]
    assert [end.name for end in sankey.layout(flows).destinations] == ["api", "web"]


def test_an_end_called_other_is_not_the_rest() -> None:
    flows = [sankey.Flow("2 others", "web", 5), sankey.Flow("2 others", "3 others", 7, rest=True)]
    placed = sankey.layout(flows)
    assert [(end.name, end.bytes, end.rest) for end in placed.sources] == [
        ("2 others", 5, False),
        ("2 others", 7, True),
    ]
    assert len(shapes(sankey.draw(flows), "band")) == 2


def of_hours(*sizes: int) -> timeline.Times:
    slots = [
        timeline.Slot(MIDNIGHT_MS + hour * HOUR_MS, MIDNIGHT_MS + (hour + 1) * HOUR_MS, {"cross_zone": size})
        for hour, size in enumerate(sizes)
    ]
    return timeline.Times(MIDNIGHT_MS, MIDNIGHT_MS + len(sizes) * HOUR_MS, slots)


def test_a_stack_is_as_high_as_its_rate() -> None:
    times = of_hours(100 * GB, 200 * GB, 0)
    heights = [numbers(each, "height")[0] for each in shapes(timeline.draw(times), "scope-cross_zone")]
    assert heights == [pytest.approx(97, abs=0.1), pytest.approx(194, abs=0.1)]
    half = timeline.Slot(MIDNIGHT_MS, MIDNIGHT_MS + HOUR_MS // 2, {"cross_zone": 100 * GB})
    cut = timeline.Times(MIDNIGHT_MS, MIDNIGHT_MS + 3 * HOUR_MS, [half, *times.slots[1:]])
    heights = [numbers(each, "height")[0] for each in shapes(timeline.draw(cut), "scope-cross_zone")]
    assert heights[0] == heights[1], "half an hour of the range is half as wide, and as high"


def test_scopes_stand_on_each_other() -> None:
    slot = timeline.Slot(0, HOUR_MS, {"same_zone": GB, "cross_zone": 2 * GB, "unknown": GB})
    drawn = timeline.draw(timeline.Times(0, HOUR_MS, [slot]))
    parts = [
        numbers(shapes(drawn, f"scope-{scope}")[0], "y", "height") for scope in ("cross_zone", "unknown", "same_zone")
    ]
    for (top, _), (above, height) in pairwise(parts):
        assert above + height == pytest.approx(top, abs=0.15)


def test_unmeasured_time_stands_where_it_was() -> None:
    times = of_hours(GB, 0, GB, GB)
    away = (MIDNIGHT_MS + HOUR_MS, MIDNIGHT_MS + 2 * HOUR_MS)
    made = timeline.Times(times.from_ms, times.to_ms, times.slots, [away], [away, (away[1], away[1] + 60_000)])
    (nobody,), (partly,) = (shapes(timeline.draw(made), kind) for kind in ("nobody", "partly"))
    bars_at = [numbers(each, "x")[0] for each in shapes(timeline.draw(made), "scope-cross_zone")]
    x, width = numbers(nobody, "x", "width")
    assert bars_at[0] < x < x + width <= bars_at[1] + 0.1
    assert numbers(partly, "x") == [x]
    assert numbers(partly, "width")[0] > width


def test_changes_close_to_each_other_are_one_mark() -> None:
    times = of_hours(GB, GB, GB, GB)
    at = [MIDNIGHT_MS, MIDNIGHT_MS + 1, MIDNIGHT_MS + 2 * HOUR_MS]
    made = timeline.Times(
        times.from_ms, times.to_ms, times.slots, marks=[timeline.Mark(each, f"m{each}") for each in at]
    )
    found = shapes(timeline.draw(made), "marked")
    assert [len((each.findtext("title") or "").split("\n")) for each in found] == [2, 1]


def test_very_many_changes_stay_few_marks() -> None:
    times = of_hours(GB)
    marks = [timeline.Mark(MIDNIGHT_MS + number * 36, "scaled") for number in range(100_000)]
    drawn = timeline.draw(timeline.Times(times.from_ms, times.to_ms, times.slots, marks=marks))
    assert len(shapes(drawn, "marked")) < 80
    assert len(drawn) < 100_000


def test_ready_end_points_are_as_high_as_many() -> None:
    found = [Step(0, 10, {"a": 1, "b": 4}), Step(10, 40, {"a": 2, "b": 4}), Step(40, 50, {"b": 4})]
    drawn = steps.draw(found, "ready")
    kinds = [(each.findtext("title") or "")[:4] for each in shapes(drawn, "ready")]
    assert kinds == ["a: 1", "a: 2", "b: 4"]
    sizes = [numbers(each, "width", "height") for each in shapes(drawn, "ready")]
    assert sizes[1][0] == pytest.approx(3 * sizes[0][0], abs=0.2)
    assert [height for _, height in sizes] == [5.5, 11, 22]


def test_of_many_zones_and_steps_a_part_is_drawn_and_said() -> None:
    zones = [{f"zone-{zone}": 1 + (number + zone) % 3 for zone in range(20)} for number in range(3_000)]
    drawn = steps.draw([Step(at, at + 1, each) for at, each in enumerate(zones)], "ready")
    assert "12 more zones are not drawn" in drawn
    assert len(drawn) < 400_000
    dip = [Step(at, at + 1, {"a": 1 if at == 5_000 else 2}) for at in range(10_000)]
    assert "a: 1" in steps.draw(dip, "ready"), "the least of what is drawn as one"


@given(st.lists(st.integers(1, 10**15), min_size=1, max_size=8))
def test_bars_are_in_proportion(sizes: list[int]) -> None:
    found = [bars.Row(f"row {number}", [bars.Part("part", size, "sent")]) for number, size in enumerate(sizes)]
    widths = [numbers(each, "width")[0] for each in shapes(bars.rows(found, "bars", "Bytes"), "part")]
    for width, size in zip(widths, sizes, strict=True):
        assert width == pytest.approx(290 * size / max(sizes), abs=0.1)


def test_text_alternatives_have_the_numbers() -> None:
    drawn = bars.whole(
        [bars.Part("part", 5 * GB, "spared"), bars.Part("part", GB, "kept")], "whole", "What becomes of it"
    )
    assert re.search(r"<desc[^>]*>spared 5.00 GB; kept 1.00 GB.</desc>", drawn)
