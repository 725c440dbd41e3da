# SPDX-License-Identifier: Apache-2.0
"""What the manifests tell our programs is what our programs understand; and what they tell the kubelet agrees."""

import re
import subprocess
from typing import Any

import pytest

from audit.settings import AuditServiceSettings
from cli.topics import ApplySettings
from collector.host.detach import DetachSettings
from collector.host.detach import main as detach
from collector.settings import CollectorSettings
from common.service.lifecycle import CLOSING_SECONDS
from common.settings import KafkaSettings, ServiceSettings, Settings, load
from common.terminal import command
from doctor.command import DoctorSettings
from enricher.settings import EnricherSettings
from history.cidrs.command import CidrsSuggestSettings
from history.replay.settings import ReplaySettings
from sinks.flowlog.settings import FlowlogSettings
from sinks.metrics.settings import MetricsSettings
from tests.k8s.rendered import PIPELINES, Container, Object, containers, find, render

CLASSES: dict[str, type[Settings]] = {
    "run collector": CollectorSettings,
    "run enricher": EnricherSettings,
    "run metrics": MetricsSettings,
    "run flowlog": FlowlogSettings,
    "run audit": AuditServiceSettings,
    "topics apply": ApplySettings,
}
# What the kubelet would put in place of a field reference.
FIELDS = {
    "spec.nodeName": "node-a",
    "status.hostIP": "192.0.2.7",
    "metadata.name": "pod-0",
    "metadata.labels['apps.kubernetes.io/pod-index']": "0",
}

OURS = [each for each in containers() if each.is_ours and each.spec["name"] not in ("detach", "detached")]
ALL = [pytest.param(each, id=each.title) for each in OURS]
SERVICES = [
    pytest.param(each, id=each.title) for each in OURS if each.spec["args"][0] == "run" and each.spec["name"] != "load"
]
# Those that run on, so that a command can be run in them: a Job's pod is done when its topics are there.
LASTING = [
    pytest.param(each, id=each.title) for each in OURS if each.workload["kind"] != "Job" and each.spec["name"] != "load"
]


def variables(container: Container) -> dict[str, str]:
    """Return the variables of the container's own as the kubelet would make them; one may name those before it."""
    found: dict[str, str] = {}
    for entry in container.spec.get("env", []):
        source = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        found[entry["name"]] = FIELDS[source] if source else expanded(entry["value"], found)
    return found


def expanded(word: str, known: dict[str, str]) -> str:
    """Put variables in place; every $(NAME) must be known."""
    return re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], word)


def arguments(container: Container) -> list[str]:
    """Return the command line as the kubelet would make it."""
    known = variables(container)
    return [expanded(word, known) for word in container.spec["args"]]


def shared(overlay: str, namespace: str = "zonemeter") -> Object:
    """Return the ConfigMap of a namespace that all its services read."""
    return find(overlay, "ConfigMap", "zonemeter-settings", namespace)


def loaded(container: Container, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the settings that the container's program would work with."""
    inside(container, monkeypatch)
    words = arguments(container)
    which = " ".join(words[:2])
    return load(CLASSES[which], which, words[2:])


def inside(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have the container's variables."""
    for source in container.spec["envFrom"]:
        settings = shared(container.overlay, container.workload["metadata"]["namespace"])
        assert settings["metadata"]["name"] == source["configMapRef"]["name"]
        for name, value in settings["data"].items():
            monkeypatch.setenv(name, value)
    for name, value in variables(container).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("container", ALL)
def test_every_flag_and_value_is_understood(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(container, monkeypatch)
    assert isinstance(settings, KafkaSettings)
    assert settings.kafka_bootstrap == shared(container.overlay)["data"]["ZONEMETER_KAFKA_BOOTSTRAP"]
    if container.overlay == "production" and container.spec["name"] != "load":  # which asks no Kafka
        assert settings.kafka_security_protocol == "SSL"
        mounts = {mount["mountPath"] for mount in container.spec["volumeMounts"]}
        for path in (settings.kafka_ssl_ca_file, settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file):
            assert str(path.parent if path else None) in mounts


@pytest.mark.parametrize("overlay", PIPELINES)
def test_every_shared_variable_is_a_setting_of_every_service(overlay: str) -> None:
    assert shared(overlay)["data"] == shared(overlay, "zonemeter-node")["data"]
    for name in shared(overlay)["data"]:
        assert name.removeprefix("ZONEMETER_").lower() in ServiceSettings.model_fields


def test_an_unknown_flag_would_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    container = next(each for each in OURS if each.spec["name"] == "collector")
    container.spec["args"].append("--no-such-flag=1")
    try:
        with pytest.raises(SystemExit):
            loaded(container, monkeypatch)
    finally:
        container.spec["args"].pop()


@pytest.mark.parametrize("container", SERVICES)
def test_ports_are_the_one_that_the_service_listens_on(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(loaded(container, monkeypatch).listen.rpartition(":")[2])
    (declared,) = container.spec["ports"]
    assert (declared["name"], declared["containerPort"]) == ("metrics", port)
    assert declared.get("hostPort", port) == port
    for probe in ("livenessProbe", "readinessProbe"):
        assert container.spec[probe]["httpGet"]["port"] == "metrics"
    assert container.spec["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container.spec["readinessProbe"]["httpGet"]["path"] == "/readyz"
    service = find(container.overlay, "Service", container.workload["metadata"]["name"])
    assert service["spec"]["ports"] == [{"name": "metrics", "port": port, "targetPort": "metrics"}]


@pytest.mark.parametrize("container", SERVICES)
def test_there_is_time_to_drain(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = loaded(container, monkeypatch).drain_seconds + CLOSING_SECONDS
    assert container.pod["terminationGracePeriodSeconds"] > budget


@pytest.mark.parametrize("container", SERVICES)
def test_what_a_service_writes_or_reads_is_on_a_volume(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(container, monkeypatch)
    mounts = {mount["mountPath"]: mount for mount in container.spec["volumeMounts"]}
    for name in ("state_dir", "output"):
        if hasattr(settings, name) and "://" not in str(getattr(settings, name)):
            assert not mounts[str(getattr(settings, name))].get("readOnly")
    if isinstance(settings, CollectorSettings):
        # Beneath the mount, not at it: a mount cannot be removed from within, and detach removes the directory.
        assert settings.pin_dir.parent.as_posix() in mounts
        assert not mounts[settings.spool_dir.parent.as_posix()].get("readOnly")
        assert settings.node == FIELDS["spec.nodeName"]
    if isinstance(settings, EnricherSettings):
        assert settings.cidr_map is not None
        assert settings.cidr_map.parent.as_posix() in mounts
        assert settings.cidr_map.name in find(container.overlay, "ConfigMap", "zonemeter-cidrs")["data"]


@pytest.mark.parametrize("container", LASTING)
def test_what_a_command_says_to_run_next_can_be_run_there(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(container, monkeypatch)
    name, namespace = (container.workload["metadata"][key] for key in ("name", "namespace"))
    # A collector looks at its own node alone. Of the others only two have an image in which every command runs.
    pod = {
        "zonemeter-collector": FIELDS["metadata.name"],
        "zonemeter-flowlog": "sts/zonemeter-flowlog",
    }.get(name, "deploy/zonemeter-enricher")
    assert command("doctor") == f"kubectl -n {namespace} exec {pod} -- zonemeter doctor"
    if "/" in pod:
        kind = {"deploy": "Deployment", "sts": "StatefulSet"}[pod.partition("/")[0]]
        there = find(container.overlay, kind, pod.partition("/")[2])["spec"]["template"]["spec"]["containers"][0]
        assert "/zonemeter-history:" in f"/{there['image']}"


@pytest.mark.parametrize("container", LASTING)
def test_commands_in_a_pod_know_its_settings(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    own = loaded(container, monkeypatch)
    doctor = load(DoctorSettings, "doctor", [])
    if isinstance(own, CollectorSettings):
        assert (doctor.pin_dir, doctor.spool_dir) == (own.pin_dir, own.spool_dir)
        assert load(DetachSettings, "detach", []).pin_dir == own.pin_dir
        assert not (doctor.node_only or doctor.pipeline_only)
        return
    # It sees nothing of its node, and says nothing about it.
    assert doctor.pipeline_only
    if isinstance(own, EnricherSettings):
        assert own.cidr_map is not None
        assert load(ReplaySettings, "replay", ["--from-raw", "--since", "1h"]).cidr_map == own.cidr_map
        assert load(CidrsSuggestSettings, "cidrs suggest", []).cidr_map == own.cidr_map
        load(ReplaySettings, "replay", ["--since", "1h"])


@pytest.mark.parametrize("container", [param for param in SERVICES if "metrics" in str(param.id)])
def test_the_replicas_of_the_metrics_sink_know_how_many_they_are(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loaded(container, monkeypatch).replicas == container.workload["spec"]["replicas"]


def test_detach_understands_its_flags(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = (each for each in containers() if each.spec["name"] == "detach")
    assert container.spec["args"] == ["detach"]
    assert variables(container).keys() == {"ZONEMETER_PIN_DIR"}
    monkeypatch.setenv("ZONEMETER_PIN_DIR", str(tmp_path / "node"))
    assert detach([]) == 0


def test_a_broker_of_the_trial_is_where_the_services_look() -> None:
    bootstrap = shared("trial")["data"]["ZONEMETER_KAFKA_BOOTSTRAP"]
    host, _, port = bootstrap.partition(":")
    service = find("trial", "Service", host.split(".")[0])
    assert host == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    (kafka,) = (each for each in containers() if each.spec["name"] == "kafka")
    variables = {entry["name"]: entry["value"] for entry in kafka.spec["env"]}
    assert variables["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{bootstrap}"
    assert kafka.spec["ports"] == [{"name": "kafka", "containerPort": int(port)}]
    assert [str(each["port"]) for each in service["spec"]["ports"]] == [port]


def test_the_trials_topics_come_back_with_kafkas_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log goes with the pod, so what makes the topics starts with it; and it waits for that Kafka."""
    assert not [each for each in render("trial") if each["kind"] == "Job"]
    (container,) = (each for each in containers() if each.overlay == "trial" and each.spec["name"] == "topics")
    assert container.workload["metadata"]["name"] == "zonemeter-kafka"
    assert loaded(container, monkeypatch).wait is not None
    # Told to end it ends at once, and does not hold up the pod for the rest of its grace period.
    shell, option, script, name = container.spec["command"]
    assert (shell, option, name) == ("sh", "-c", "sh")
    with subprocess.Popen([shell, option, script.replace("zonemeter", "echo"), name, "made"], stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"made\n"
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_the_job_that_makes_topics_waits_for_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = (each for each in containers() if each.overlay == "base" and each.spec["name"] == "topics")
    assert loaded(container, monkeypatch).wait is not None


def test_the_trials_prometheus_scrapes_every_service() -> None:
    settings = find("trial", "ConfigMap", "zonemeter-prometheus")["data"]["prometheus.yml"]
    for each in render("trial"):
        if each["kind"] == "Service" and each["spec"]["ports"][0]["name"] == "metrics":
            name, port = each["metadata"]["name"], each["spec"]["ports"][0]["port"]
            assert f"job_name: {name}\n" in settings
            namespace = each["metadata"]["namespace"]
            assert f"names: [{name}.{namespace}.svc], type: A, port: {port}," in settings


@pytest.mark.parametrize("overlay", PIPELINES)
def test_what_is_loaded_is_what_the_collector_asks_for(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have the same settings but for who loads; else the collector finds nothing that fits."""
    first, then = (
        loaded(each, monkeypatch).model_dump(exclude={"load", "listen", "spool_dir", "spool_size"})
        for name in ("load", "collector")
        for each in OURS
        if (each.overlay, each.spec["name"]) == (overlay, name)
    )
    assert first == then
