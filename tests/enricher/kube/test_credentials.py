# SPDX-License-Identifier: Apache-2.0
"""Who we are to the API server: in a pod and by kubeconfig, with the role in k8s/ and no more, also as that changes."""

import asyncio
import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import ssl
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from common.errors import Refusal
from enricher.kube import client, reflector
from lab.kafka.broker import free_port
from lab.kube.api import KubeApi, serve
from lab.kube.objects import objects
from tests.support.enricher.certificates import Certificate, make
from tests.support.enricher.followed import AT, PLAN, TOKEN, Followed, api_with_everything, following, write_kubeconfig
from tests.support.enricher.processes import Enricher
from tests.support.enricher.topics import Topics
from tests.support.forked import Forked
from tests.support.lab.faulty_api import FaultyStart
from tests.support.services import ROOT, eventually, while_running

ROLE = ROOT / "k8s" / "base" / "services" / "enricher-role.yaml"


def rights() -> set[tuple[str, str]]:
    """Return what the role in k8s/ allows: (verb, resource), or (verb, resource/name) where it allows one of them."""
    role = next(yaml.safe_load_all(ROLE.read_text()))
    assert [rule["apiGroups"] for rule in role["rules"]] == [[""], ["discovery.k8s.io"]]
    return {
        (verb, f"{resource}{name}")
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for name in [f"/{each}" for each in rule.get("resourceNames", [])] or [""]
    }


def test_a_new_token_and_a_new_authority_are_taken_up_by_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "LONGEST_BACKOFF_SECONDS", 0.2)
    first, second = make(tmp_path / "tls", "first"), make(tmp_path / "tls", "second")
    file, port = tmp_path / "kubeconfig", free_port()
    server = f"https://127.0.0.1:{port}"

    async def served(api: KubeApi, certificate: Certificate, test: Callable[[], Any]) -> None:
        async with serve(api, port, tls=certificate.tls()):
            await test()

    async def run() -> None:
        api, faults = api_with_everything()
        async with asyncio.timeout(120), following(api, faults, file, server) as made:
            write_kubeconfig(file, server, authority=first.authority)
            await served(api, first, made.agrees)
            api.settings = dataclasses.replace(api.settings, token="another")
            api.store.delete("pods", ("shop", "postgres-0"), "2026-11-22T09:10:00Z")
            await served(api, second, lambda: rotated(made))

    async def rotated(made: Followed) -> None:
        # The old authority does not vouch for the server, then the old token is refused.
        before = made.failures("pods", "network")
        await made.until(lambda: made.failures("pods", "network") > before)
        write_kubeconfig(file, server, TOKEN, second.authority)
        await made.until(lambda: made.failures("pods", "401"))
        write_kubeconfig(file, server, "another", second.authority)
        await made.agrees()

    asyncio.run(run())


class PodApi:
    """The lab's API as a process that speaks TLS and allows what the role allows."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._start = directory / "api.json"
        self._token = ""
        self._process: Forked | None = None

    def start(self, token: str, certificate: Certificate) -> None:
        self.stop()
        files = (str(certificate.certificate), str(certificate.key))
        start = FaultyStart(self.port, token, list(objects(PLAN, AT)), sorted(rights()), *files)
        self._start.write_bytes(msgspec.json.encode(start))
        self._token, self._authority = token, certificate.authority
        words = ["tests.support.lab.faulty_api", str(self._start)]
        self._process = Forked(words, ROOT, Path(os.devnull), self._start.with_suffix(".log"))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def asked(self) -> set[tuple[str, str]]:
        """Return what was asked for and allowed since its start."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/lab/asked", headers={"Authorization": f"Bearer {self._token}"}
        )
        try:
            with urllib.request.urlopen(
                request, timeout=5, context=ssl.create_default_context(cafile=self._authority)
            ) as answer:
                return {(verb, resource) for verb, resource in json.load(answer)}
        except OSError:
            return set()


@contextlib.contextmanager
def pod_api(directory: Path) -> Iterator[PodApi]:
    made = PodApi(directory)
    try:
        yield made
    finally:
        made.stop()


class InPod(Enricher):
    """An enricher that finds itself in a pod."""

    def __init__(self, account: Path, port: int, flags: list[str], log: Path) -> None:
        super(Enricher, self).__init__(["tests.support.enricher.in_pod"], [str(account), str(port), *flags], log)


def test_in_a_pod_the_role_is_enough_and_all_of_it_is_used_also_after_everything_rotated(
    topics: Topics, tmp_path: Path
) -> None:
    first, second = make(tmp_path / "tls", "first"), make(tmp_path / "tls", "second")
    account = tmp_path / "account"
    account.mkdir()

    def mount(token: str, certificate: Certificate) -> None:
        (account / "token").write_text(token)
        shutil.copy(certificate.authority, account / "ca.crt")

    mount("one", first)
    with pod_api(tmp_path) as api:
        api.start("one", first)
        with while_running(
            InPod(account, api.port, [*topics.flags, "--kube", "in-cluster"], tmp_path / "log")
        ) as found:
            eventually(found.ready)
            eventually(lambda: api.asked() == rights())
            api.start("two", second)
            eventually(lambda: found.metric("kube_failures_total", "network", "pods") >= 2)
            mount("two", second)
            eventually(lambda: api.asked() >= {("watch", name) for name in ("pods", "nodes", "services")})
            assert found.terminate() == 0


def asking(file: Path, user: dict[str, Any], server: str = "http://127.0.0.1:1") -> None:
    """Write a kubeconfig whose user has what a command prints."""
    write_kubeconfig(file, server)
    config = json.loads(file.read_bytes())
    config["users"][0]["user"] = user
    file.write_text(json.dumps(config))


def by_exec(code: str, program: str = sys.executable) -> dict[str, Any]:
    """Return a user that has its credentials from a command: from code in Python, or in another program's language."""
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": program, "args": ["-c", code], "env": None}}


def by_gcloud(code: str, program: str = sys.executable) -> dict[str, Any]:
    """Return a user as `gcloud` wrote it before its plugin."""
    config = {"cmd-path": program, "cmd-args": shlex.join(["-c", code])}
    return {"auth-provider": {"name": "gcp", "config": config}}


@pytest.mark.parametrize("by", [by_exec, by_gcloud])
def test_a_command_for_credentials_that_never_ends_is_given_up_and_ended_with_all_that_it_started(
    by: Callable[[str, str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CREDENTIALS_SECONDS", 5.0)
    file, fifo = tmp_path / "kubeconfig", tmp_path / "fifo"
    os.mkfifo(fifo)
    # Both of its processes hold the fifo open for as long as they live. A shell: on a busy machine, Python may take
    # longer to start than a command gets here.
    asking(file, by(f"exec 9>{shlex.quote(str(fifo))}; printf $$ >&9; sleep 600 & sleep 600", "sh"))

    async def run() -> None:
        with pytest.raises(Refusal, match=r"no credentials within 5 s"):
            await client.KubeClient("auto", file).open()

    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        asyncio.run(run())
        process = os.read(reading, 100).decode()
        assert not Path("/proc", process, "stat").exists()  # reaped, too
        eventually(lambda: is_at_end(reading))
    finally:
        os.close(reading)


def is_at_end(fifo: int) -> bool:
    """Return whether nobody has it open for writing any more."""
    try:
        return os.read(fifo, 1) == b""
    except BlockingIOError:
        return False


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('log in\\nfirst')", "python[^ ]* ended with status 1: first; give"),
        ("print('<html>')", "python[^ ]* printed 7 bytes that are not a JSON object"),
        ("print('[]')", "python[^ ]* printed 3 bytes that are not a JSON object"),
        ("while True: print('x' * 1000)", "python[^ ]* printed more than 1048576 bytes"),
        (
            'print(\'{"apiVersion": "v2", "status": {}}\')',
            "printed no ExecCredential of client.authentication.k8s.io/v1",
        ),
    ],
)
def test_what_a_command_for_credentials_prints_is_bounded_and_what_is_none_is_said(
    code: str, said: str, tmp_path: Path
) -> None:
    asking(tmp_path / "kubeconfig", by_exec(code))
    with pytest.raises(Refusal, match=said):
        asyncio.run(client.KubeClient("auto", tmp_path / "kubeconfig").open())


@pytest.mark.parametrize(
    ("by", "answer"),
    [
        (
            by_exec,
            {
                "apiVersion": "client.authentication.k8s.io/v1",
                "kind": "ExecCredential",
                "status": {"token": TOKEN, "expirationTimestamp": "2099-01-01T00:00:00Z"},
            },
        ),
        (by_gcloud, {"credential": {"access_token": TOKEN, "token_expiry": "2099-01-01T00:00:00Z"}}),
    ],
)
def test_what_a_command_prints_opens_the_door(
    by: Callable[[str], dict[str, Any]], answer: dict[str, Any], tmp_path: Path
) -> None:
    file, port = tmp_path / "kubeconfig", free_port()
    server = f"http://127.0.0.1:{port}"
    # More on stderr than a pipe holds, before anything else.
    asking(file, by(f"import sys; sys.stderr.write('x' * 200_000); print({json.dumps(answer)!r})"), server)

    async def run() -> None:
        api, _ = api_with_everything()
        found = client.KubeClient("auto", file)
        async with asyncio.timeout(120), serve(api, port):
            await found.open()
            try:
                assert (await found.get("/api/v1/nodes", {}, 10)).status == 200
            finally:
                await found.close()

    asyncio.run(run())


def test_without_a_right_the_line_says_which_and_where_to_get_it(tmp_path: Path) -> None:
    async def run() -> None:
        api, faults = api_with_everything()
        api.rights = frozenset(rights() - {("list", "nodes")})
        port = free_port()
        async with (
            asyncio.timeout(120),
            serve(api, port),
            following(api, faults, tmp_path / "kubeconfig", f"http://127.0.0.1:{port}") as made,
        ):
            await made.until(lambda: made.failures("nodes", "403"))
            line = made.service.health.reasons["kube-nodes"]
            assert 'cannot list resource "nodes"' in line
            assert "needs list and watch on pods, nodes and services" in line

    asyncio.run(run())
