# SPDX-License-Identifier: Apache-2.0
"""Cost counters: exact, and a changed price file makes none of them jump."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from prices.book import SUBUNITS, PriceBook, Side
from prices.file import parse_prices, shipped
from schemas.flow import Observer
from sinks.intake import Intake, Lane
from sinks.metrics.aggregate import Aggregate
from sinks.metrics.ends import Ends
from sinks.metrics.exposition import Exposition
from sinks.metrics.families import WORKLOAD_COST, ZONE_COST
from tests.support.price_files import price_file
from tests.support.services import eventually
from tests.support.sinks.flows import END_MS, EXTERNAL, cloud, encoded, flow, flow_id, other, pod, records, window
from tests.support.sinks.processes import running
from tests.support.sinks.topics import Topics

GB = 10**9
API_POSTGRES = ("lab", "shop", "Deployment", "api", "a", "shop", "Deployment", "postgres", "b", "cross_zone")
AB = ("lab", "a", "b", "cross_zone")

EXEMPT = price_file(
    {"scope": "cross_zone", "source_name": "alb-*", "source": 0, "destination": 0},
    {"scope": "cross_zone", "source_region": "eu-*", "source": 0.02, "destination": 0.03},
).encode()


def taken(*flows: dict[str, Any]) -> list[Any]:
    intake, lane = Intake(Ends().make), Lane(0)
    values = [encoded(flow(id=flow_id(1, row), **fields)) for row, fields in enumerate(flows)]
    batch = intake.take(lane, records(values), END_MS)
    assert not batch.refused
    return batch.rows


def costs(book: PriceBook | None, *flows: dict[str, Any], max_series: int = 100) -> dict[str, dict[Any, int]]:
    aggregate = Aggregate(max_series, None, book)
    aggregate.add(taken(*flows), Lane(0).books)
    aggregate.fold(END_MS)
    return {
        name: {series.labels: series.value for series in aggregate.families[name].served}
        for name in (ZONE_COST.name, WORKLOAD_COST.name)
        if name in aggregate.families
    }


@pytest.mark.parametrize(
    ("book", "dollars"),
    [
        pytest.param("aws", SUBUNITS * 2 // 100, id="aws: 0.02 for 10^9 bytes, both ends"),
        pytest.param("gcp", GB * 9_313_225_746_154_785_156_250_000, id="gcp: 0.01 for 2^30 bytes, the sender"),
    ],
)
def test_what_a_gigabyte_across_zones_costs(book: str, dollars: int) -> None:
    found = costs(shipped(book), {"bytes": GB})
    assert found == {ZONE_COST.name: {AB: dollars}, WORKLOAD_COST.name: {API_POSTGRES: dollars}}


def test_without_a_price_file_there_is_no_cost_family() -> None:
    assert costs(None, {"bytes": GB}) == {}


def test_what_is_free_is_zero_by_zone_and_what_has_no_price_is_absent() -> None:
    found = costs(
        shipped("aws"),
        {"bytes": GB, "scope": "same_zone", "destination": pod("web", "a")},
        {"bytes": GB, "scope": "external", "destination": EXTERNAL},
        {"bytes": GB, "scope": "unknown", "destination": other("unknown", reason="vpc_unmapped")},
        {"bytes": GB, "encapsulation": "vxlan"},
    )
    assert found == {ZONE_COST.name: {("lab", "a", "a", "same_zone"): 0}, WORKLOAD_COST.name: {}}
    assert costs(shipped("azure"), {"bytes": GB}) == {ZONE_COST.name: {AB: 0}, WORKLOAD_COST.name: {}}


def test_prices_by_region_and_by_name() -> None:
    book = parse_prices(EXEMPT, "mine")
    cents = SUBUNITS // 100
    assert costs(book, {"bytes": GB})[ZONE_COST.name] == {AB: 5 * cents}
    balancer = other("cidr", "a", name="alb-public")
    assert costs(book, {"bytes": GB, "source": balancer})[ZONE_COST.name] == {AB: 0}
    # A relayed packet is priced where it is sent on from.
    relayed = {"source": EXTERNAL, "direction": "relay", "observer": Observer("node-a", cloud("a"))}
    assert costs(book, {"bytes": GB, **relayed})[ZONE_COST.name] == {AB: 5 * cents}
    assert costs(book, {"bytes": GB, **relayed, "observer": Observer("node-x")})[ZONE_COST.name] == {}


def test_a_pair_of_zones_has_a_price_of_its_own_also_where_a_packet_is_relayed() -> None:
    book = parse_prices(EXEMPT.replace(b'source_name = "alb-*"', b'source_zone = "a"\ndestination_zone = "b"'), "mine")
    reply = {"bytes": GB, "source": pod("postgres", "b"), "destination": pod("api", "a")}
    assert costs(book, {"bytes": GB})[ZONE_COST.name] == {AB: 0}
    assert costs(book, reply)[ZONE_COST.name] == {("lab", "b", "a", "cross_zone"): 5 * SUBUNITS // 100}
    relayed = {"source": EXTERNAL, "direction": "relay", "observer": Observer("node-a", cloud("a"))}
    assert costs(book, {"bytes": GB, **relayed})[ZONE_COST.name] == {AB: 0}


def test_what_is_priced_by_tier_has_no_cost_here() -> None:
    """A counter is one number; a range is not."""
    aws = shipped("aws")
    assert aws.match("external", pod_side(), Side(external=True)) is not None
    assert costs(aws, {"bytes": GB, "scope": "external", "destination": EXTERNAL})[ZONE_COST.name] == {}


def pod_side() -> Side:
    return Ends().make(pod("api", "a")).side


def test_pairs_beyond_the_budget_cost_under_the_labels_that_their_bytes_have() -> None:
    flows = [{"bytes": GB, "source": pod(f"w{number}", "a")} for number in range(5)]
    found = costs(shipped("aws"), *flows, max_series=2)[WORKLOAD_COST.name]
    other_ = ("lab", "_other_", "_other_", "_other_", "a", "_other_", "_other_", "_other_", "b", "cross_zone")
    assert found[other_] == 3 * SUBUNITS * 2 // 100
    assert len(found) == 3


def test_another_price_file_prices_what_comes_from_then_on() -> None:
    before = Aggregate(100, None, shipped("aws"))
    before.add(taken({"bytes": GB}), Lane(0).books)
    samples = before.fold(END_MS).samples
    for book, more in ((shipped("gcp"), GB * 9_313_225_746_154_785_156_250_000), (shipped("azure"), 0)):
        after = Aggregate(100, None, book)
        for sample in samples:
            after.restore(sample)
        zone = after.families[ZONE_COST.name].series[AB]
        assert zone.value == SUBUNITS * 2 // 100, "no jump at the start"
        after.add(taken({"bytes": GB}), Lane(0).books)
        after.fold(END_MS)
        assert zone.value == SUBUNITS * 2 // 100 + more


@given(st.lists(st.integers(0, 2**53 - 1), min_size=1, max_size=20))
def test_sums_are_exact_and_what_is_shown_never_falls(sizes: list[int]) -> None:
    aggregate = Aggregate(100, None, shipped("gcp"))
    shown = Exposition([family.spec for family in aggregate.families.values()], 30_000)
    last = 0.0
    for size in sizes:
        aggregate.add(taken({"bytes": size}), Lane(0).books)
        shown.apply(aggregate.fold(END_MS).samples, [])
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(shown.render(END_MS).decode())
            for sample in family.samples
        }
        assert samples[ZONE_COST.name] >= last
        last = samples[ZONE_COST.name]
    assert aggregate.families[ZONE_COST.name].series[AB].value == sum(sizes) * 9_313_225_746_154_785_156_250_000
    assert last == pytest.approx(sum(sizes) / 2**30 / 100)


def test_a_restart_with_other_prices_is_no_jump(topics: Topics, tmp_path: Path) -> None:
    flags = [*topics.flags, "--state-dir", str(tmp_path / "state")]
    zone, bytes_ = (ZONE_COST.name, AB), ("zonemeter_zone_bytes_total", AB)
    topics.produce({0: window(1, 10, bytes=GB)})
    with running("metrics", [*flags, "--prices", "aws"], tmp_path / "log") as sink:
        eventually(lambda: sink.samples().get(bytes_) == 10 * GB)
        assert sink.samples()[zone] == 0.2
        assert sink.samples()["zonemeter_prices_info", ("2026-11-23", "aws", "AWS", "GB")] == 1
        sink.kill()
    with running("metrics", [*flags, "--prices", "gcp"], tmp_path / "log") as sink:
        eventually(sink.ready)
        assert sink.samples()[zone] == 0.2
        topics.produce({0: window(2, 10, bytes=2**30)})
        eventually(lambda: sink.samples().get(bytes_) == 10 * GB + 10 * 2**30)
        assert sink.samples()[zone] == pytest.approx(0.3)
        sink.terminate()
    with running("metrics", flags, tmp_path / "log") as sink:
        eventually(sink.ready)
        assert not [name for name, _ in sink.samples() if "cost" in name], "no price file, no cost"


def test_prices_that_cannot_be_used_end_the_service(topics: Topics, tmp_path: Path) -> None:
    euro = tmp_path / "euro.toml"
    euro.write_bytes(EXEMPT.replace(b'"USD"', b'"EUR"'))
    for prices, said in ((str(euro), "is in EUR; the cost metrics are in USD"), ("azur", "expected aws, azure, gcp")):
        flags = [*topics.flags, "--state-dir", str(tmp_path / "state"), "--prices", prices]
        log = tmp_path / f"{Path(prices).stem}.log"
        with running("metrics", flags, log) as sink:
            assert sink.wait() == 2
        assert said in log.read_text()
