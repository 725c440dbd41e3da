# SPDX-License-Identifier: Apache-2.0
"""The component that looks after the archive: its commands are understood, and it has no more rights than needed."""

import textwrap

import kubernetes_validate
import pytest

from common.settings import load
from history.upkeep.iceberg.command import IcebergSettings
from history.upkeep.settings import CompactSettings, ExpireSettings
from tests.k8s.rendered import ROOT, Object, find, with_component
from tests.k8s.test_schema import VERSIONS


@pytest.fixture(scope="module")
def job() -> Object:
    (found,) = (each for each in with_component("archive-upkeep") if each["kind"] == "CronJob")
    return found


def pod_of(job: Object) -> Object:
    pod: Object = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_what_its_schema_says(job: Object, version: str) -> None:
    kubernetes_validate.validate(job, version, strict=True)


def test_it_runs_one_at_a_time_on_the_flow_logs_volume(job: Object) -> None:
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod, flowlog = pod_of(job), find("base", "StatefulSet", "zonemeter-flowlog")
    (template,) = flowlog["spec"]["volumeClaimTemplates"]
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "emptyDir" not in each
    }
    assert claims == {"archive": f"{template['metadata']['name']}-{flowlog['metadata']['name']}-0"}
    (affinity,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity["labelSelector"]["matchLabels"] == flowlog["spec"]["selector"]["matchLabels"]
    theirs = flowlog["spec"]["template"]["spec"]["containers"][0]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["volumeMounts"] == theirs["volumeMounts"]
        assert container["image"] == theirs["image"]


def test_its_commands_are_understood(job: Object) -> None:
    pod = pod_of(job)
    (first,), (last,) = pod["initContainers"], pod["containers"]
    expire = load(ExpireSettings, "archive expire", first["args"][2:])
    compact = load(CompactSettings, "archive compact", last["args"][2:])
    assert (first["args"][:2], last["args"][:2]) == (["archive", "expire"], ["archive", "compact"])
    assert (
        f"--output={compact.archive}"
        in find("base", "StatefulSet", "zonemeter-flowlog")["spec"]["template"]["spec"]["containers"][0]["args"]
    )
    assert (expire.archive, expire.keep) == (compact.archive, "395d")


def test_it_has_no_more_rights_than_the_flow_log(job: Object) -> None:
    pod, flowlog = pod_of(job), find("base", "StatefulSet", "zonemeter-flowlog")["spec"]["template"]["spec"]
    for name in ("securityContext", "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks"):
        assert pod[name] == flowlog[name]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == flowlog["containers"][0]["securityContext"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}


def test_the_documented_step_publishes_after_what_is_there() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text().partition("- **An Iceberg table of the archive**")[2]
    patches = textwrap.dedent(page.partition("  ```yaml\n")[2].partition("  ```\n")[0])
    pod = pod_of(next(each for each in with_component("archive-upkeep", patches) if each["kind"] == "CronJob"))
    steps = [*pod["initContainers"], *pod["containers"]]
    assert [(each["name"], each["args"][1]) for each in steps] == [
        ("expire", "expire"),
        ("compact", "compact"),
        ("iceberg", "iceberg"),
    ]
    last = steps[-1]
    publish = load(IcebergSettings, "archive iceberg", last["args"][2:])
    prefix = f"PYICEBERG_CATALOG__{str(publish.catalog).upper()}__"
    assert {each["name"] for each in last["env"]} == {f"{prefix}TYPE", f"{prefix}WAREHOUSE"}
    assert last["securityContext"] == steps[0]["securityContext"]
