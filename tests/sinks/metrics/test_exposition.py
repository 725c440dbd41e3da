# SPDX-License-Identifier: Apache-2.0
"""The text that Prometheus reads: escaping, parsing back, promtool's opinion, speed."""

import subprocess

from prometheus_client.parser import text_string_to_metric_families

from schemas.ids import Origin
from sinks.intake import MARK_KEPT_MS, FlowMark
from sinks.metrics.exposition import Exposition
from sinks.metrics.families import KUBEZONNET_BYTES, UNKNOWN_BYTES, WORKLOAD_BYTES, ZONE_BYTES, Sample

NOW_MS = 1_795_384_000_000
AWKWARD = ['"', "\\", "\n", '\\"', "\\n", "é", "日本", "", " ", "{}", "a,b", "\t", "#", "'"]


def exposition() -> Exposition:
    return Exposition([ZONE_BYTES, WORKLOAD_BYTES, UNKNOWN_BYTES, KUBEZONNET_BYTES], 30_000)


def parsed(text: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_awkward_labels_come_back_as_they_were() -> None:
    shown = exposition()
    shown.apply([Sample(n, UNKNOWN_BYTES.name, (text, "late_index"), n) for n, text in enumerate(AWKWARD)], [])
    samples = parsed(shown.render(NOW_MS))
    for number, text in enumerate(AWKWARD):
        assert samples[UNKNOWN_BYTES.name, (text, "late_index")] == number


def test_a_checkpoint_replaces_values_and_families_unknown_to_it_stay_out() -> None:
    shown = exposition()
    shown.apply([Sample(1, KUBEZONNET_BYTES.name, ("shop", "api-0"), 5), Sample(2, "gone_total", ("x",), 1)], [])
    first = shown.render(NOW_MS)
    assert shown.render(NOW_MS) == first
    shown.apply([Sample(1, KUBEZONNET_BYTES.name, ("shop", "api-0"), 2**60 + 1)], [])
    text = shown.render(NOW_MS)
    assert b'pod_cross_zone_network_traffic_bytes_total{namespace="shop",pod="api-0"} 1152921504606846977\n' in text
    assert b"gone_total" not in text


def test_what_is_served_no_more_is_not_shown_and_what_comes_back_is() -> None:
    shown = exposition()
    api, web = (Sample(n, KUBEZONNET_BYTES.name, ("shop", pod), n) for n, pod in enumerate(("api", "web"), 1))
    shown.apply([api, web], [])
    shown.apply([api._replace(served=False)], [], removed=[web.number])
    assert b"pod_cross_zone" not in shown.render(NOW_MS)
    shown.apply([api], [])
    assert parsed(shown.render(NOW_MS))[KUBEZONNET_BYTES.name, ("shop", "api")] == 1


def test_nodes_fall_silent_and_are_forgotten_at_last() -> None:
    shown = exposition()
    shown.apply(
        [],
        [
            (Origin("lab", "a", "0" * 12), FlowMark(1, 1, 0, 0, end_ms=NOW_MS)),
            (Origin("lab", "a", "1" * 12), FlowMark(1, 1, 0, 0, end_ms=NOW_MS - 10**6)),
            (Origin("lab", "b", "0" * 12), FlowMark(1, 1, 0, 0, end_ms=NOW_MS - 30_001)),
            (Origin("other", "a", "0" * 12), FlowMark(1, 1, 0, 0, end_ms=NOW_MS - 30_000)),
            (Origin("lab", "c", "0" * 12), FlowMark(1, 1, 0, 0, end_ms=NOW_MS - MARK_KEPT_MS - 1)),
        ],
    )
    assert parsed(shown.render(NOW_MS)) == {
        ("zonemeter_nodes", ("metered",)): 2,
        ("zonemeter_nodes", ("silent",)): 1,
    }


def test_promtool_finds_nothing_to_complain_about() -> None:
    shown = exposition()
    shown.apply(
        [
            Sample(1, ZONE_BYTES.name, ("lab", "a", "b", "cross_zone"), 1),
            Sample(2, WORKLOAD_BYTES.name, (*tuple(AWKWARD[:9]), "cross_zone"), 1),
            Sample(3, UNKNOWN_BYTES.name, ("lab", "late_index"), 1),
            Sample(4, KUBEZONNET_BYTES.name, ("shop", "api-0"), 1),
        ],
        [],
    )
    check = subprocess.run(["promtool", "check", "metrics"], input=shown.render(NOW_MS), capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
