# SPDX-License-Identifier: Apache-2.0
"""The images: the same names everywhere, and in them what the services need and nothing of the development's."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.rendered import ROOT, chart, containers

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
DOCKERFILE = (ROOT / "images/Dockerfile").read_text()


TARGETS = {"zonemeter": "zonemeter", "zonemeter-history": "history", "zonemeter-collector": "collector"}
LOCKS = {f"images/requirements{extra}.lock" for extra in ("", "-msk", "-iceberg")}


def lock(path: str) -> dict[str, set[str]]:
    """Return `name==version` with the hashes, of a lock file."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / path).read_text().replace("\\\n", "")):
        if "==" in entry:
            name, *hashes = entry.split()
            found[name] = set(hashes)
    return found


def test_images_are_the_dockerfiles_targets_with_the_projects_version() -> None:
    built = {f"{name}:{PROJECT['version']}" for name in TARGETS}
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert set(TARGETS.values()) <= set(stages)
    for name, target in TARGETS.items():
        assert f"--target {target} -t {name}:{PROJECT['version']} ." in DOCKERFILE
    in_kubernetes = {
        each.spec["image"] for each in containers() if each.is_ours and each.overlay in ("base", "trial", "uninstall")
    }
    in_compose = {service["image"] for service in COMPOSE.values() if service["image"].startswith("zonemeter")}
    assert in_kubernetes == in_compose == built
    for service in COMPOSE.values():
        if "build" in service:
            name, _, version = service["image"].partition(":")
            assert (service["build"]["target"], version) == (TARGETS[name], PROJECT["version"])


def test_third_images_are_the_same_in_compose_and_kubernetes() -> None:
    theirs = {each.spec["image"] for each in containers() if not each.is_ours and each.overlay == "trial"}
    named = {re.sub(r"^\$\{\w+:-(.*)}$", r"\1", service["image"]) for service in COMPOSE.values()}
    assert theirs == {"apache/kafka:4.2.0", "prom/prometheus:v3.5.0"}
    assert theirs <= named


def test_every_image_that_is_not_built_here_has_a_digest() -> None:
    digests = dict(
        re.findall(r"^(ZONEMETER_\w+_IMAGE)=(\S+)$", (ROOT / "images/digests.env").read_text(), re.MULTILINE)
    )
    compose = (ROOT / "docker-compose.yml").read_text()
    for variable, image in digests.items():
        name, _, digest = image.partition("@")
        assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
        assert f"${{{variable}:-{name}}}" in compose, f"docker-compose.yml has another default than {name}"
    assert set(digests) == set(re.findall(r"ZONEMETER_\w+_IMAGE", compose))
    named = {service["image"] for service in COMPOSE.values() if not service["image"].startswith("zonemeter")}
    assert {re.sub(r"^\$\{(\w+):-.*}$", r"\1", image) for image in named} == set(digests) - {"ZONEMETER_BASE_IMAGE"}
    assert re.findall(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE) == [
        digests["ZONEMETER_BASE_IMAGE"].partition("@")[0]
    ]
    assert {service["build"]["args"]["BASE_IMAGE"] for service in COMPOSE.values() if "build" in service} == {
        "${ZONEMETER_BASE_IMAGE:-debian:bookworm-slim}"
    }


def test_kafka_is_the_version_that_the_tests_run() -> None:
    pom = (ROOT / "lab/kafka/pom.xml").read_text()
    assert COMPOSE["kafka"]["image"] == "${ZONEMETER_KAFKA_IMAGE:-apache/kafka:4.2.0}"
    assert "<version>4.2.0</version>" in pom


def test_the_images_lock_is_the_part_of_the_lock_that_the_services_need() -> None:
    ours, everything = lock("images/requirements.lock"), lock("requirements.lock")
    assert ours.items() <= everything.items()
    for extra in ("msk", "iceberg"):
        with_extra = lock(f"images/requirements-{extra}.lock")
        assert ours.items() <= with_extra.items() <= everything.items()
        assert re.sub(r"\[.*\]", "", PROJECT["optional-dependencies"][extra][0]) in with_extra
    names = {entry.partition("==")[0] for entry in ours}
    wanted = {re.split(r"[\[<>=~ ]", each)[0].lower() for each in PROJECT["dependencies"]}
    assert wanted <= names
    assert not names & {"pytest", "mypy", "ruff", "setuptools", "uv", "hypothesis"}
    assert any(entry.startswith("setuptools==") for entry in everything)


def test_what_the_images_are_built_from_holds_every_package() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[[line.startswith("#") for line in ignored].index(False)] == "*"
    rooms = {package.partition(".")[0] for package in SETUPTOOLS["packages"]} | {"bpf"}
    for wanted in rooms | {"pyproject.toml", "README.md", "requirements.lock"} | LOCKS:
        assert f"!{wanted}" in ignored
        assert (ROOT / wanted).exists()


def test_the_services_image_runs_as_nobody_in_particular() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    (services,) = (stage for stage in stages if stage.startswith("core AS zonemeter"))
    assert re.findall(r"^USER (.*)$", services, re.MULTILINE)[-1] == "65532:65532"
    for each in containers():
        if each.is_ours and each.workload["kind"] != "DaemonSet":
            user = each.pod["securityContext"] | each.spec["securityContext"]
            assert (user["runAsUser"], user["runAsGroup"]) == (65532, 65532), each


def test_what_was_pushed_is_written_down_for_helm_and_for_kustomize(tmp_path: Path) -> None:
    """With a stand-in for Docker, in a copy of what the script reads."""
    for name in ("scripts/images", "images/digests.env", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    docker = tmp_path / "docker"
    asks = f'echo "$@" >>{tmp_path}/asked; [ "$1 $2" = "image inspect" ] || exit 0'
    docker.write_text(f'#!/bin/sh\n{asks}\neval "name=\\${{$#}}"; echo "${{name%:*}}@sha256:{"0" * 64}"\n')
    docker.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(tmp_path / "scripts/images"), "registry.example.com:5000/tools"]
    done = subprocess.run(command, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = [line for line in (tmp_path / "asked").read_text().splitlines() if line.startswith("build ")]
    for (name, target), words in zip(TARGETS.items(), map(shlex.split, asked), strict=True):
        assert words[words.index("--target") + 1] == target
        assert words[words.index("-t") + 1] == f"registry.example.com:5000/tools/{name}:{PROJECT['version']}"
        assert any(word.startswith("BASE_IMAGE=debian:bookworm-slim@sha256:") for word in words)
    found = {each.spec["image"].partition("@")[0] for each in containers() if each.is_ours and each.overlay == "base"}
    pushed = {f"registry.example.com:5000/tools/{name}" for name in found}
    values = str(tmp_path / "build/images/values.yaml")
    pods = [
        each["spec"]["template"]["spec"] for each in chart("--values", values) if "template" in each.get("spec", {})
    ]
    rendered = {each["image"] for pod in pods for each in (*pod.get("initContainers", []), *pod["containers"])}
    assert rendered == {f"{name}@sha256:{'0' * 64}" for name in pushed}
    component = yaml.safe_load((tmp_path / "build/images/kustomization.yaml").read_text())
    assert {each["name"] for each in component["images"]} == {name.partition(":")[0] for name in found}
    assert {each["newName"] for each in component["images"]} == {name.rpartition(":")[0] for name in pushed}


def test_a_release_runs_scripts_that_are_here() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    scripts = set(re.findall(r"\bscripts/[a-z-]+", "\n".join(lines)))
    assert scripts == {"scripts/images", "scripts/package-chart", "scripts/sbom"}
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)$", "\n".join(lines), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
