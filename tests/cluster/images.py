# SPDX-License-Identifier: Apache-2.0
"""The images that the cluster runs, as one file: two versions of zonemeter's (another.py), others by images/base."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import another
from tests.cluster.node import PAUSE_IMAGE
from tests.k8s.rendered import WORKLOADS, render
from tests.support.kubernetes.programs import PROGRAMS
from tests.support.services import ROOT

# The names in the daemon: no other checkout's, nor a user's.
_OURS = "zonemeter-cluster"
DNS_IMAGE = f"{_OURS}/coredns:1"
_DAEMON = Path(os.environ.get("ZONEMETER_DOCKER", "/var/tmp/zonemeter-docker"))


def save(file: Path) -> None:
    """Build what is to be built, and write all images into a file."""
    with _docker():
        _run("images/base", "make")
        for name in built():
            target = name.partition(":")[0].removeprefix("zonemeter-")
            words = ["--network=host", "-f", "images/Dockerfile", "--target", target, "-t", f"{_OURS}/{name}", "."]
            _run("docker", "build", "-q", *words)
            next_one = f"{_OURS}/{of_another_version(name)}"
            _run("docker", "build", "-q", "-t", next_one, "-", stdin=another.context(f"{_OURS}/{name}"))
        recipe = 'FROM debian:bookworm-slim\nENTRYPOINT ["sleep", "infinity"]\n'
        _run("docker", "build", "-q", "-t", PAUSE_IMAGE, "-", stdin=recipe.encode())
        program = subprocess.run(["tar", "-C", PROGRAMS, "-c", "coredns"], check=True, capture_output=True).stdout
        _run("docker", "import", "-c", 'ENTRYPOINT ["/coredns"]', "-", DNS_IMAGE, stdin=program)
        names = [f"{_OURS}/{name}" for name in _in_both_versions()]
        others = [each for each in _of_the_trial() if each not in built()]
        _run("docker", "save", "-o", str(file), PAUSE_IMAGE, DNS_IMAGE, *names, *others)


def load_command() -> str:
    """Return the shell's words that load the file on its stdin on a node, under the names that manifests have."""
    ctr = "ctr -n k8s.io images"
    tags = (f"{ctr} tag docker.io/{_OURS}/{name} docker.io/library/{name}" for name in _in_both_versions())
    return " && ".join((f"{ctr} import -", *tags))


def built() -> list[str]:
    """Name zonemeter's own images, as the manifests do."""
    return [name for name in _of_the_trial() if name.startswith("zonemeter")]


def of_another_version(name: str) -> str:
    """Return the name of the same image in the other version."""
    return f"{name.partition(':')[0]}:{another.VERSION}"


def _in_both_versions() -> list[str]:
    return [*built(), *map(of_another_version, built())]


def _of_the_trial() -> list[str]:
    pods = [each["spec"]["template"]["spec"] for each in render("trial") if each["kind"] in WORKLOADS]
    return sorted({spec["image"] for pod in pods for spec in (*pod.get("initContainers", []), *pod["containers"])})


@contextmanager
def _docker() -> Iterator[None]:
    """Have a daemon: the one that answers, else one of images/base for as long as this lasts."""
    if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        yield
        return
    was_there = (_DAEMON / "pid").exists()
    os.environ["DOCKER_HOST"] = _run("images/base", "start").partition("DOCKER_HOST=")[2].strip()
    try:
        yield
    finally:
        if not was_there:
            _run("images/base", "stop")


def _run(*words: str, stdin: bytes = b"") -> str:
    done = subprocess.run(words, cwd=ROOT, input=stdin, capture_output=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.decode()[-2000:]}"
    return done.stdout.decode()
