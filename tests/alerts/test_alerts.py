# SPDX-License-Identifier: Apache-2.0
"""The alert rules: promtool's opinion, its tests, and that they, the dashboards and the pages name what there is."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts.metric_names import FOREIGN, TARGET_LABELS, grouped_by, is_exported, labels_of, labels_used, named
from tests.docs.code_metrics import ROOT
from tests.support.dashboards import DASHBOARDS, FILES, NO_LABEL, queries

HERE = Path(__file__).parent
RULES_FILE = ROOT / "k8s/monitoring/alerts.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
EXPRESSIONS = [rule["expr"] for rule in RULES] + [query.expression for query in queries()]
PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"]


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", str(RULES_FILE))


def test_the_scrape_settings_are_settings(tmp_path: Path) -> None:
    for path in (ROOT / "compose/prometheus.yml", ROOT / "k8s/trial/prometheus.yml"):
        text = re.sub(r"/etc/prometheus(-rules)?/alerts\.yml", str(RULES_FILE), path.read_text())
        (tmp_path / path.name).write_text(text)
        assert f"{len(RULES)} rules found" in promtool("check", "config", str(tmp_path / path.name))


@pytest.mark.parametrize("path", sorted(HERE.glob("*.test.yml")), ids=lambda path: path.name)
def test_each_alert_fires_when_it_should_and_only_then(path: Path) -> None:
    promtool("test", "rules", path.name)


def test_every_alert_is_tested_and_explained() -> None:
    tests = [test for path in HERE.glob("*.test.yml") for test in yaml.safe_load(path.read_text())["tests"]]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    page = (ROOT / "docs/alerts.md").read_text()
    explained = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    names = {rule["alert"] for rule in ALERTS}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert explained == names
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_that_the_code_exports(expression: str) -> None:
    metrics = named(expression)
    assert {name for name in metrics if not is_exported(name)} == set()
    assert set(re.findall(r"\bzonemeter:[a-z0-9_:]+", expression)) <= RECORDED
    for metric, labels in labels_used(expression).items():
        possible = TARGET_LABELS if metric in FOREIGN else labels_of(metric)
        assert possible is None or labels - {NO_LABEL} <= possible, metric
        assert NO_LABEL not in (possible or ())
    known = [labels_of(metric) for metric in metrics]
    if known and None not in known:
        assert grouped_by(expression) <= set().union(*(labels or () for labels in known))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_metrics_that_the_code_exports(page: Path) -> None:
    for name in named(page.read_text()):
        assert is_exported(name) or is_exported(f"{name}_total"), name


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_whole(name: str) -> None:
    dashboard = DASHBOARDS[name]
    panels: list[dict[str, Any]] = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval", "__range"}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= variables


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_first_dashboard_is_narrowed_and_its_tables_follow_the_time_picker() -> None:
    for query in queries():
        if query.place.startswith("dashboard:"):
            assert "ledger" in query.place.lower() or {"$namespace", "$workload"} <= set(
                re.findall(r"\$\w+", query.expression)
            )
            assert "$__range" in query.expression or not query.instant, query.place


def test_the_dashboards_are_where_grafana_looks() -> None:
    made = yaml.safe_load((ROOT / "k8s/monitoring/kustomization.yaml").read_text())["configMapGenerator"]
    files = {file.partition("=")[2] for each in made for file in each["files"]}
    mounts = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    for path in FILES:
        assert path.name in files
        assert any(mount.startswith(f"./{path.relative_to(ROOT)}:/var/lib/dashboards/") for mount in mounts)
