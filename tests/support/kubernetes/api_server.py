# SPDX-License-Identifier: Apache-2.0
"""A real kube-apiserver with its etcd, built once from their Go modules: on the loopback, or in a network namespace."""

import contextlib
import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lab.kafka.broker import free_port
from lab.network.namespaces import enter
from lab.processes import Process, Processes
from tests.k8s.rendered import HELM
from tests.support.kubernetes.programs import PROGRAMS

TOKEN = "admin-token"
# Of an API server that nothing of a cluster runs beside.
ALONE = (
    "--service-cluster-ip-range=10.233.0.0/16",
    "--endpoint-reconciler-type=none",
    "--disable-admission-plugins=ServiceAccount",
)


class ApiServer:
    """A running API server. `address`: https://HOST:PORT, as it is reached in `namespace`; the token may do everything.

    In a namespace of its own it has its usual port and listens on every address.
    """

    def __init__(
        self, directory: Path, namespace: str | None = None, host: str = "127.0.0.1", flags: Sequence[str] = ALONE
    ) -> None:
        self.directory, self.namespace, self._host, self._flags = directory, namespace, host, flags
        self.processes = Processes(directory)
        self._port, self._clients, self._peers = (port if namespace else free_port() for port in (6443, 2379, 2380))
        self.address = f"https://{f'[{host}]' if ':' in host else host}:{self._port}"

    def inside(self) -> AbstractContextManager[None]:
        """Be where it is reached, for the length of a block that must not await."""
        return enter(self.namespace) if self.namespace else nullcontext()

    @property
    def authority(self) -> Path:
        """The certificate that the API server made for itself."""
        return self.directory / "certs/apiserver.crt"

    def start(self) -> None:
        """Start both and wait until they answer."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n")
        key = self.directory / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        self.start_etcd()
        self.start_server()

    def start_etcd(self) -> None:
        """Start etcd alone, as after its end."""
        clients, peers = f"http://127.0.0.1:{self._clients}", f"http://127.0.0.1:{self._peers}"
        self.run(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",
            "--log-level=error",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )

    def start_server(self) -> None:
        """Start the API server alone, as after its end, and wait until it answers."""
        server = self.run(
            "kube-apiserver",
            f"--bind-address={self._host if self.namespace is None else '::'}",
            f"--secure-port={self._port}",
            f"--advertise-address={self._host}",
            f"--etcd-servers=http://127.0.0.1:{self._clients}",
            f"--cert-dir={self.directory / 'certs'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'sa.key'}",
            f"--service-account-signing-key-file={self.directory / 'sa.key'}",
            "--allow-privileged=true",
            *self._flags,
        )
        deadline = time.monotonic() + 120
        while not self._is_ready():
            if not server.alive or time.monotonic() > deadline:
                raise RuntimeError(self.processes.log("kube-apiserver").read_text()[-3000:])
            time.sleep(0.1)

    def run(self, name: str, *arguments: str) -> Process:
        """Start one of the programs where the API server is, with its log in the directory."""
        place = [] if self.namespace is None else ["nsenter", f"--net=/run/netns/{self.namespace}"]
        return self.processes.start(name, [*place, str(PROGRAMS / name), *arguments])

    def kill(self, name: str) -> None:
        """Kill one of the programs; etcd keeps what there is."""
        for process in self.processes.recorded():
            if process.role == name:
                self.processes.kill(process)

    def stop(self) -> None:
        """End all of them."""
        for process in self.processes.recorded():
            self.processes.kill(process)

    def kubectl(self, *arguments: str, objects: list[dict[str, Any]] | None = None) -> str:
        """Run kubectl, with objects on its stdin; raise `AssertionError` with its words if it refuses."""
        at = ["--server", self.address, "--certificate-authority", str(self.authority), "--token", TOKEN]
        given = "\n---\n".join(map(json.dumps, objects or []))
        with self.inside():
            done = subprocess.run(
                [str(PROGRAMS / "kubectl"), *at, *arguments], input=given, capture_output=True, text=True, check=False
            )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr[-2000:]}{done.stdout[-2000:]}"
        return done.stdout

    def helm(self, *words: str) -> str:
        """Run Helm; raise `AssertionError` with its words if it refuses."""
        at = ["--kube-apiserver", self.address, "--kube-ca-file", str(self.authority), "--kube-token", TOKEN]
        with self.inside():
            done = subprocess.run(
                [str(HELM), *words, *at],
                capture_output=True,
                text=True,
                env=os.environ | {"HOME": str(self.directory)},
            )
        assert done.returncode == 0, f"helm {words[0]}: {done.stderr[-2000:]}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` says, as a document."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def compact(self) -> None:
        """Forget all versions but the last, as etcd does every five minutes: old ones are gone (410)."""
        body = json.dumps({"key": "AA==", "range_end": "AA==", "limit": 1}).encode()
        revision = self._etcd_call("kv/range", body)["header"]["revision"]
        self._etcd_call("kv/compaction", json.dumps({"revision": revision, "physical": True}).encode())

    def _etcd_call(self, call: str, body: bytes) -> Any:
        url = f"http://127.0.0.1:{self._clients}/v3/{call}"
        with self.inside(), urllib.request.urlopen(url, body, timeout=10) as answer:
            return json.load(answer)

    def _is_ready(self) -> bool:
        if not self.authority.exists():
            return False
        request = urllib.request.Request(f"{self.address}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            trusted = ssl.create_default_context(cafile=str(self.authority))
            with self.inside(), urllib.request.urlopen(request, timeout=5, context=trusted) as answer:
                return bool(answer.read() == b"ok")
        except OSError:
            return False


@contextlib.contextmanager
def api_server(directory: Path) -> Iterator[ApiServer]:
    """Have an API server for as long as this lasts."""
    server = ApiServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
