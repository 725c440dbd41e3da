# SPDX-License-Identifier: Apache-2.0
"""The chart renders what k8s/ has: there a change begins, and here it says what the chart lacks."""

import json
import re
import shutil
import tomllib
from difflib import unified_diff
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from common.settings import SERVICES, KafkaSettings, load
from doctor.command import DoctorSettings
from enricher.index.cidrs import read_cidr_map
from tests.k8s.rendered import CHART, PRODUCTION, ROOT, WORKLOADS, Object, chart, find, render, template, with_component
from tests.k8s.test_schema import VERSIONS, key

PAGE = (ROOT / "docs/kubernetes.md").read_text()
HELMS_LABELS = ("app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart")
LABELS = """\
patches:
  - target: {kind: Deployment, name: zonemeter-enricher}
    patch: |
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: '--namespace-labels=team,cost-center'}
"""
PASSWORD = ("kafka.sasl.username=zonemeter", "kafka.sasl.existingSecret=kafka-user")
# A component, what an overlay adds to it, and the chart's values for the same.
COMPONENTS = {
    "kafka-tls": ("", ["kafka.securityProtocol=SSL"]),
    "kafka-oauth": ("", ["kafka.securityProtocol=SASL_SSL", "kafka.sasl.mechanism=OAUTHBEARER"]),
    "monitoring": ("", ["monitoring.configMaps=true"]),
    "archive-upkeep": ("", ["archiveUpkeep.enabled=true"]),
    "endpoint-slices": ("", ["enricher.endpointSlices=true"]),
    "namespace-labels": (LABELS, ["enricher.namespaceLabels={team,cost-center}"]),
}

# What `helm test` needs beside its pod, and kustomize does not have.
OF_THE_TEST = (("ServiceAccount", "zonemeter-reader", "zonemeter"), ("NetworkPolicy", "zonemeter-doctor", "zonemeter"))


def plain(objects: list[Object]) -> dict[Any, Object]:
    """Return the objects by what tells them apart, without what only Helm or only kustomize adds."""
    text = json.dumps(objects)
    # What replaces pods when settings change: kustomize's hash in a name, the chart's checksum. A Job has its revision.
    text = re.sub(r"\b(zonemeter-(?:settings|cidrs|prometheus))-[a-z0-9]{10}\b", r"\1", text)
    text = re.sub(r"\bzonemeter-topics-1\b", "zonemeter-topics", text)
    found = {}
    for each in json.loads(text):
        for metadata in (each["metadata"], each.get("spec", {}).get("template", {}).get("metadata", {})):
            for name in HELMS_LABELS:
                metadata.get("labels", {}).pop(name, None)
            metadata.get("annotations", {}).pop("checksum/settings", None)
            if not metadata.get("annotations", True):
                del metadata["annotations"]
        # No selector asks for it of an object, and kustomize does not give it to those of components.
        each["metadata"].setdefault("labels", {}).pop("app.kubernetes.io/part-of", None)
        if "cidrs.toml" in each.get("data", {}):
            each["data"] = tomllib.loads(each["data"]["cidrs.toml"])
        assert key(each) not in found
        found[key(each)] = each
    # The release's own namespace is Helm's: --create-namespace, or what docs/kubernetes.md applies before.
    found.pop(("Namespace", "zonemeter", None), None)
    for of_the_test in OF_THE_TEST:
        found.pop(of_the_test, None)
    return found


def assert_same(ours: list[Object], theirs: list[Object]) -> None:
    """Compare object by object, so that a difference is shown alone."""
    chart_has, k8s_has = plain(ours), plain(theirs)
    assert chart_has.keys() == k8s_has.keys()
    for name, each in k8s_has.items():
        ours_now, wanted = (yaml.safe_dump(side[name]).splitlines() for side in (chart_has, k8s_has))
        difference = "\n".join(unified_diff(wanted, ours_now, "k8s", "charts/zonemeter", lineterm=""))
        assert chart_has[name] == each, f"{name}\n{difference}"


def sets(values: list[str]) -> tuple[str, ...]:
    """Return flags that set these."""
    return tuple(word for value in values for word in ("--set", value))


def test_by_default_it_is_the_base() -> None:
    assert_same(chart(), render("base"))


def test_values_trial_is_the_trial() -> None:
    assert_same(chart("--values", str(CHART / "values-trial.yaml")), render("trial"))


@pytest.mark.parametrize("component", COMPONENTS)
def test_its_values_are_the_components(component: str) -> None:
    patches, values = COMPONENTS[component]
    assert_same(chart(*sets(values)), with_component(component, patches))


def test_every_component_has_values() -> None:
    files = (ROOT / "k8s").glob("[a-z]*/kustomization.yaml")
    components = {path.parent.name for path in files if "kind: Component" in path.read_text()}
    assert components == COMPONENTS.keys() | {"object-store"}


def test_an_object_store_opens_what_the_component_opens_and_needs_no_volume() -> None:
    store = ["flowlog.output=s3://bucket/path", "archiveUpkeep.enabled=true"]
    ours = plain(chart(*sets(store)))
    policy = ("NetworkPolicy", "zonemeter-to-object-store", "zonemeter")
    assert ours[policy] == plain(with_component("object-store"))[policy]
    (patch,) = re.findall(r"for an object store:\n\n  ```yaml\n(.*?)  ```", PAGE, re.DOTALL)
    upkeep = ("CronJob", "zonemeter-archive-upkeep", "zonemeter")
    theirs = plain(with_component("archive-upkeep", re.sub("^  ", "", patch, flags=re.MULTILINE)))[upkeep]
    pod = theirs["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "archive"]
    for container in (*pod["initContainers"], *pod["containers"]):
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "archive"]
    assert ours[upkeep] == theirs
    flowlog = ours["StatefulSet", "zonemeter-flowlog", "zonemeter"]["spec"]
    assert "volumeClaimTemplates" not in flowlog
    assert "--output=s3://bucket/path" in flowlog["template"]["spec"]["containers"][0]["args"]


def test_detach_is_the_uninstalls() -> None:
    """In the same release, so that nothing else of it changes."""
    ours, before = plain(chart("--set", "detach=true")), plain(chart())
    theirs = plain(render("uninstall"))
    assert theirs
    for name, each in theirs.items():
        assert ours[name] == each
    assert before.keys() - ours.keys() == {("Service", "zonemeter-collector", "zonemeter-node")}
    assert {name for name in ours if ours[name] != before.get(name)} == {
        ("DaemonSet", "zonemeter-collector", "zonemeter-node")
    }


def test_the_values_that_the_page_shows_are_the_overlay_that_it_shows(tmp_path: Path) -> None:
    shown = re.search(r"^# mine\.yaml\n.*?(?=^```)", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    mine = tmp_path / "mine.yaml"
    mine.write_text(shown[0])
    assert_same(chart("--values", str(mine)), render(PRODUCTION))


def test_every_namespace_can_be_another() -> None:
    node = ("--set", "nodeNamespace.name=tools-node")
    done = template(str(CHART), "-n", "tools", *node)
    assert done.returncode == 0, done.stderr
    trial = template(str(CHART), "-n", "tools", "-f", str(CHART / "values-trial.yaml"), *node)
    assert trial.returncode == 0, trial.stderr
    for text in (done.stdout, trial.stdout):
        objects = [each for each in yaml.safe_load_all(text) if each]
        assert {each["metadata"].get("namespace") for each in objects} == {"tools", "tools-node", None}
        for words in ("-n zonemeter", "namespace: zonemeter", ".zonemeter.svc", ".zonemeter-node.svc"):
            assert words not in text


def texts(part: Any, value: Any, schema: Any) -> Any:
    """Return values of the shape of `value`, with 123 as the text of all that may be called so."""
    part = schema["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    if isinstance(value, dict) and "properties" in part:
        return {name: texts(part["properties"][name], each, schema) for name, each in value.items()}
    if part.get("type") == "string" and re.search(part.get("pattern", ""), "123"):
        return "123"
    if "patternProperties" in part and re.search(next(iter(part["patternProperties"])), "NO"):
        return {"NO": "123"}
    return value


@pytest.mark.parametrize(
    "mode",
    [
        ["kafka.securityProtocol=SSL", "trial.enabled=true"],
        ["kafka.securityProtocol=SASL_SSL", "monitoring.configMaps=true"],
        ["kafka.securityProtocol=SASL_SSL", "kafka.sasl.mechanism=OAUTHBEARER", "kafka.sasl.mskRegion="],
        ["kafka.securityProtocol=SASL_SSL", "kafka.sasl.mechanism=OAUTHBEARER", "detach=true"],
    ],
    ids=" ".join,
)
def test_what_reads_as_a_number_stays_text(mode: list[str], tmp_path: Path) -> None:
    """A storage class 123, a size in bytes, a variable NO: YAML has other types for what is not in quotes."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = texts(schema, yaml.safe_load((CHART / "values.yaml").read_text()), schema)
    assert values["flowlog"]["persistence"] == {"enabled": True, "size": "123", "storageClass": "123"}
    values["nodeNamespace"]["name"] = "789"
    values["collector"]["mapMemory"] = "8192"
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    done = template(str(CHART), "-n", "456", "-f", str(path), *sets(mode), release="123")
    assert done.returncode == 0, done.stderr
    for each in yaml.safe_load_all(done.stdout):
        if each:
            kubernetes_validate.validate(each, VERSIONS[0], strict=True)
            assert all(isinstance(value, str) for value in each["metadata"]["labels"].values())
            assert each["metadata"].get("namespace", "456") in ("456", "789")


@pytest.mark.parametrize(
    ("values", "files"),
    [
        (["kafka.securityProtocol=SSL", "kafka.tls.existingSecret=all"], {"kafka-tls"}),
        (
            ["kafka.securityProtocol=SSL", "kafka.tls.existingSecret=all", "kafka.sasl.mskRegion=eu-west-1"],
            {"kafka-tls"},
        ),
        (["kafka.securityProtocol=SASL_SSL", *PASSWORD], {"kafka-password"}),
        (["kafka.securityProtocol=SASL_PLAINTEXT", *PASSWORD], {"kafka-password"}),
        (["kafka.securityProtocol=SASL_SSL", "kafka.sasl.mechanism=OAUTHBEARER"], {"kafka-token"}),
        (
            ["kafka.securityProtocol=SASL_SSL", "kafka.sasl.mechanism=OAUTHBEARER", "kafka.sasl.mskRegion=eu-west-1"],
            set(),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("public", [False, True])
def test_the_files_for_kafka_are_where_the_settings_look(
    values: list[str], files: set[str], public: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = chart(*sets([*values, f"kafka.publicCertificates={str(public).lower()}"]))
    for data in (each["data"] for each in objects if each["metadata"]["name"] == "zonemeter-settings"):
        for name, value in data.items():
            monkeypatch.setenv(name, value)
    settings = KafkaSettings()
    named = [getattr(settings, field) for field in KafkaSettings.model_fields if field.endswith("_file")]
    used = {str(path.parent) for path in named if path}
    assert used == ({"/etc/zonemeter-kafka"} if files else set())
    assert (settings.kafka_ssl_ca_file is None) is (public or "SASL_PLAINTEXT" in values[0] or not files)
    for each in objects:
        if each["kind"] in WORKLOADS:
            pod = each["spec"]["template"]["spec"]
            assert {volume["name"] for volume in pod["volumes"] if volume["name"].startswith("kafka-")} == files
            mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
            assert {name for name, path in mounts.items() if path in used} == files


@pytest.mark.parametrize("nobody", ["kafka.to", "prometheus.from"])
def test_a_list_of_nobody_opens_nothing(nobody: str) -> None:
    """In a rule of a policy an empty list is everybody."""
    policies = [each for each in chart("--set-json", f"networkPolicy.{nobody}=[]") if each["kind"] == "NetworkPolicy"]
    rules = [rule for each in policies for way in ("ingress", "egress") for rule in each["spec"].get(way) or []]
    assert rules
    for rule in rules:
        assert "from" not in rule or rule["from"]
        assert "to" not in rule or rule["to"]
        if "to" not in rule and "from" not in rule:
            assert {port["port"] for port in rule["ports"]} == {443, 6443, 8443, 16443}, "the API server's"


def test_settings_replace_pods() -> None:
    def checksums(*flags: str) -> dict[str, str]:
        found = {}
        for each in chart(*flags):
            if each["kind"] in ("DaemonSet", "Deployment", "StatefulSet"):
                found[each["metadata"]["name"]] = each["spec"]["template"]["metadata"]["annotations"][
                    "checksum/settings"
                ]
        return found

    before = checksums()
    assert len(before) == 5
    # Whose each is, and no other's: a network that is named rolls no collector.
    for values, whose in (
        (["cluster=other"], before.keys()),
        (["cidrs[0].cidr=10.9.0.0/24", "cidrs[0].name=orders-db"], {"zonemeter-enricher"}),
        (["metrics.priceFile=one"], {"zonemeter-metrics"}),
    ):
        after = checksums(*sets(values))
        assert {name for name in before if after[name] != before[name]} == whose


@pytest.mark.parametrize("flags", [(), ("--set", "kafka.securityProtocol=SSL")])
def test_helm_test_runs_the_doctor_as_a_reader(flags: tuple[str, ...]) -> None:
    usual = {key(each): each for each in chart(*flags)}
    (hook,) = (each for each in chart(*flags, hooks=True) if key(each) not in usual)
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"
    hooks = {each["kind"]: each for each in (hook, *(usual[name] for name in OF_THE_TEST))}
    assert hooks.keys() == {"Pod", "ServiceAccount", "NetworkPolicy"}
    for each in hooks.values():
        for version in VERSIONS:
            kubernetes_validate.validate(each, version, strict=True)
    pod = hooks["Pod"]["spec"]
    assert pod["serviceAccountName"] == hooks["ServiceAccount"]["metadata"]["name"] == "zonemeter-reader"
    (container,) = pod["containers"]
    assert container["args"][0] == "doctor"
    assert load(DoctorSettings, "doctor", container["args"][1:]).pipeline_only
    theirs = find("base", "Deployment", "zonemeter-audit")["spec"]["template"]["spec"]
    assert pod["securityContext"] == theirs["securityContext"]
    assert container["securityContext"] == theirs["containers"][0]["securityContext"]
    assert not pod["automountServiceAccountToken"]
    secrets = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
    assert secrets == (["zonemeter-reader-kafka-tls"] if flags else [])
    policy = hooks["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= hooks["Pod"]["metadata"]["labels"].items()
    assert policy["egress"] == find("base", "NetworkPolicy", "zonemeter-to-kafka")["spec"]["egress"]


def test_networks_outside_the_cluster_stay_data() -> None:
    text = find("chart-options", "ConfigMap", "zonemeter-cidrs")["data"]["cidrs.toml"]
    wanted = yaml.safe_load((ROOT / "tests/k8s/values-options.yaml").read_text())["cidrs"]
    assert tomllib.loads(text)["cidr"] == wanted
    assert len(read_cidr_map(text.encode(), "cidrs.toml").entries) == len(wanted) == 3


def test_the_operator_gets_the_rules_and_services_of_both_namespaces() -> None:
    (rule,) = (each for each in render("chart-production") if each["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "k8s/monitoring/alerts.yml").read_text())
    (monitor,) = (each for each in render("chart-production") if each["kind"] == "ServiceMonitor")
    spec = monitor["spec"]
    assert spec["namespaceSelector"]["matchNames"] == ["zonemeter", "zonemeter-node"]
    services = [each for each in render("chart-production") if each["kind"] == "Service"]
    assert len(services) == 5
    for each in services:
        assert spec["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
        assert {"metrics"} == {port["name"] for port in each["spec"]["ports"]} == {spec["endpoints"][0]["port"]}
    # pod_cross_zone_network_traffic_bytes_total has labels that the operator gives every target.
    assert spec["endpoints"][0]["honorLabels"] is True


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["collector.hook=xdp"], "/collector/hook': value must be one of 'auto', 'netfilter', 'tc'"),
        (["colector.hook=tc"], "additional properties 'colector' not allowed"),
        (["collector.map_memory=1"], "/collector': additional properties 'map_memory' not allowed"),
        (["collector.mapMemory=many"], "/collector/mapMemory': 'many' does not match pattern"),
        (["enricher.replicas=two"], "/enricher/replicas': got string, want integer"),
        (["kafka.bootstrap=kafka"], "/kafka/bootstrap': 'kafka' does not match pattern"),
        (["kafka.securityProtocol=TLS"], "/kafka/securityProtocol': value must be one of 'PLAINTEXT'"),
        (["metrics.prices=oracle"], "/metrics/prices': value must be one of '', 'aws', 'azure', 'gcp'"),
        (["flowlog.output=/mnt"], "/flowlog/output': '/mnt' does not match pattern"),
        (["flowlog.replicas=2"], "/flowlog/output': '/var/lib/zonemeter/flowlog' does not match pattern"),
        (["images.zonemeter.digest=abc"], "/images/zonemeter/digest': 'abc' does not match pattern"),
        (["cidrs[0].cidr=10.0.0.0/8"], "/cidrs/0': missing property 'name'"),
        (["settings.KAFKA=1"], "/settings': additional properties 'KAFKA' not allowed"),
        (["kafka.securityProtocol=SASL_SSL"], "kafka.sasl.username: a user name is needed"),
        (
            ["kafka.securityProtocol=SASL_SSL", "kafka.sasl.username=a"],
            "kafka.sasl.existingSecret: the name of a Secret",
        ),
        (
            ["archiveUpkeep.enabled=true", "flowlog.persistence.enabled=false"],
            "archiveUpkeep.enabled: true needs flowlog.persistence.enabled",
        ),
        (["archiveUpkeep.enabled=true", "flowlog.enabled=false"], "archiveUpkeep.enabled: true needs flowlog.enabled"),
        (["metrics.replicas=13"], "metrics.replicas: 13: at most one per partition, and kafka.partitions is 12"),
        (["topics.replication=1"], "topics.minInsyncReplicas: 2: at most topics.replication, which is 1"),
        (["enricher.extraArgs={--other-clusters=b,--listen=:1}"], "enricher.extraArgs: --listen: the chart sets it"),
        (["metrics.extraArgs={--no-kubezonnet-metric}"], "metrics.extraArgs: --no-kubezonnet-metric: the chart sets"),
        (["flowlog.extraArgs={--output}"], "flowlog.extraArgs: --output: the chart sets it itself"),
        (["collector.env.zonemeter_cluster=a"], "collector.env.zonemeter_cluster: the chart sets it itself"),
        (["nodeNamespace.name=zonemeter"], "nodeNamespace.name: zonemeter is the release's own namespace"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_wrong_value_is_refused_by_its_name(values: list[str], said: str) -> None:
    done = template(str(CHART), "-n", "zonemeter", *sets(values))
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if said in line], done.stderr


# Between them, all that the chart can set.
EVERYTHING = [
    ["collector.hook=tc", "collector.mapMemory=1GiB", "collector.spoolSize=1GiB", "metrics.kubezonnetMetric=false"],
    ["enricher.endpointSlices=true", "enricher.namespaceLabels={team}", "metrics.prices=aws", "flowlog.cutSeconds=60"],
    ["kafka.securityProtocol=SSL"],
    ["kafka.securityProtocol=SASL_SSL", *PASSWORD],
    ["kafka.securityProtocol=SASL_SSL", "kafka.sasl.mechanism=OAUTHBEARER"],
    ["kafka.securityProtocol=SASL_SSL", "kafka.sasl.mechanism=OAUTHBEARER", "kafka.sasl.mskRegion=eu-west-1"],
]


def test_what_the_chart_sets_itself_is_set_once() -> None:
    """Of two flags the later wins. Of two variables of one name the API server's merge keeps neither, once one goes."""
    rendered: dict[str, set[str]] = {name: set() for name in ("every", *SERVICES)}
    for values in EVERYTHING:
        for each in chart(*sets(values)):
            if each["metadata"]["name"] == "zonemeter-settings":
                rendered["every"] |= {name.removeprefix("ZONEMETER_").lower() for name in each["data"]}
            if each["kind"] in ("DaemonSet", "Deployment", "StatefulSet"):
                pod, service = each["spec"]["template"]["spec"], each["metadata"]["name"].removeprefix("zonemeter-")
                for container in (*pod.get("initContainers", []), *pod["containers"]):
                    flags = [word.partition("=")[0] for word in container["args"][2:]]
                    names = {flag.removeprefix("--").removeprefix("no-").replace("-", "_") for flag in flags}
                    names |= {each["name"].removeprefix("ZONEMETER_").lower() for each in container["env"]}
                    rendered[service] |= names
    (listed,) = re.findall(
        r'define "zonemeter.own" -}}\n(.*?){{-', (CHART / "templates/_helpers.tpl").read_text(), re.DOTALL
    )
    own = {name: set(names) for name, names in yaml.safe_load(listed).items()}
    assert own.keys() == rendered.keys()
    for service in SERVICES:
        assert rendered[service] | rendered["every"] == own[service] | own["every"], service


@pytest.mark.parametrize(
    "value", ["collector.env.ZONEMETER_PIN_DIR", "audit.env.ZONEMETER_PROGRAM", "settings.ZONEMETER_CLUSTER"]
)
def test_a_variable_that_the_chart_sets_is_refused(value: str) -> None:
    done = template(str(CHART), "-n", "zonemeter", "--set-string", f"{value}=1")
    assert done.returncode != 0
    assert f"{value}: the chart sets it itself" in done.stderr


def test_a_setting_of_another_service_is_not_the_charts() -> None:
    """In the enricher's pod ZONEMETER_PRICES is of the commands that are run there."""
    chart("--set", "enricher.env.ZONEMETER_PRICES=aws", "--set", "flowlog.extraArgs={--group=mine}")


@pytest.mark.parametrize("store", [[], ["flowlog.output=s3://bucket/path"]], ids=["volume", "object-store"])
def test_the_upkeep_may_run_where_the_flow_log_may(store: list[str]) -> None:
    objects = chart(
        *sets(
            ["archiveUpkeep.enabled=true", "flowlog.priorityClassName=high", "flowlog.nodeSelector.pool=tools", *store]
        ),
        *("--set-json", 'flowlog.tolerations=[{"key": "tools", "operator": "Exists"}]'),
        *("--set-json", 'flowlog.affinity={"nodeAffinity": {}}'),
    )
    (upkeep,) = (each["spec"]["jobTemplate"]["spec"] for each in objects if each["kind"] == "CronJob")
    (flowlog,) = (each["spec"] for each in objects if key(each)[:2] == ("StatefulSet", "zonemeter-flowlog"))
    ours, theirs = (each["template"]["spec"] for each in (upkeep, flowlog))
    for name in ("tolerations", "nodeSelector", "priorityClassName"):
        assert ours[name] == theirs[name]
    assert ours.get("affinity", {}).keys() == (set() if store else {"podAffinity"})


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(part: Any, value: Any, path: str) -> None:
        part = schema["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if "properties" in part and isinstance(value, dict):
            assert part["additionalProperties"] is False, path
            known = part["properties"].keys() - {"global", "localhostProfile"}
            assert known == value.keys() or path.endswith("resources"), path
            for name in value:
                compare(part["properties"][name], value[name], f"{path}.{name}")

    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """The chart with its notes as an object: without a cluster Helm prints them in no other way."""
    copy = tmp_path / "zonemeter"
    shutil.copytree(CHART, copy)
    (copy / "templates/NOTES.txt").rename(copy / "NOTES")
    notes = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes"}}
    text = json.dumps(notes)[:-1] + ', "data": {"notes": {{ tpl (.Files.Get "NOTES") . | toJson }}}}'
    (copy / "templates/notes.yaml").write_text(text)
    return copy


@pytest.mark.parametrize("values", ["values.yaml", "values-trial.yaml", "values-production.yaml"])
def test_the_notes_say_what_to_run_next(noted: Path, values: str) -> None:
    done = template(str(noted), "-n", "zonemeter", "-f", str(CHART / values), "-s", "templates/notes.yaml")
    notes = yaml.safe_load(done.stdout)["data"]["notes"]
    program = "kubectl -n zonemeter exec deploy/zonemeter-enricher -- zonemeter"
    assert {"name": "ZONEMETER_PROGRAM", "value": program} in (
        find("base", "Deployment", "zonemeter-enricher")["spec"]["template"]["spec"]["containers"][0]["env"]
    )
    assert f"{program} report --since 10m\n" in notes
    assert "exec sts/zonemeter-flowlog -- zonemeter report --since 1h --archive '" in notes
    assert "helm test zonemeter -n zonemeter" in notes
    assert ("no dollars" in notes) is (values == "values.yaml")
    assert ("a trial only" in notes) is (values == "values-trial.yaml")
    assert "--set detach=true" in notes


def test_it_has_the_files_that_it_shares_with_k8s() -> None:
    files = {path.name: path.read_bytes() for path in (CHART / "files").iterdir()}
    theirs = [ROOT / "k8s/trial/prometheus.yml"]
    theirs += [ROOT / "k8s/monitoring" / name for name in ("alerts.yml", "dashboard.json", "health.json")]
    assert files == {path.name: path.read_bytes() for path in theirs}, "run make chart"


def test_its_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert described["version"] == described["appVersion"] == project["version"]
