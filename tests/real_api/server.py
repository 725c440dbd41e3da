# SPDX-License-Identifier: Apache-2.0
"""A real kube-apiserver with its etcd on the loopback, built once from their Go modules."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import terminal
from tests.support.services import ROOT

SOURCES = Path(__file__).with_name("programs")
PROGRAMS = ROOT / ".cache/kubernetes"
# Package by program; Go names a program after its directory, and etcd's is its module's.
PACKAGES = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "etcd": "go.etcd.io/etcd/server/v3",
}
TOKEN = "admin-token"


def build() -> None:
    """Build what is missing: some ten minutes on two cores; raise `RuntimeError` without Go."""
    missing = {name: package for name, package in PACKAGES.items() if not (PROGRAMS / name).exists()}
    if not missing:
        return
    if not shutil.which("go"):
        raise RuntimeError("no Go: 1.24 or later builds the API server")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    version = next(line.split()[1] for line in _mod() if line.strip().startswith("k8s.io/kubernetes v"))
    major, minor, _ = version.removeprefix("v").split(".")
    stamp = "k8s.io/component-base/version"
    flags = f"-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    for name, package in missing.items():
        terminal.complain(f"real-api: builds {name}")
        command = ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(PROGRAMS / name), package]
        subprocess.run(
            command, cwd=SOURCES, check=True, env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
        )


def _mod() -> list[str]:
    return (SOURCES / "go.mod").read_text().splitlines()


class ApiServer:
    """A running API server. `address`: https://HOST:PORT; the token may do everything."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with contextlib.ExitStack() as bound:
            sockets = [bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            self._port, self._clients, self._peers = (each.getsockname()[1] for each in sockets)
        self.address = f"https://127.0.0.1:{self._port}"
        self._server: subprocess.Popen[bytes] | None = None
        self._etcd: subprocess.Popen[bytes] | None = None

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
        clients, peers = f"http://127.0.0.1:{self._clients}", f"http://127.0.0.1:{self._peers}"
        self._etcd = self._run(
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
        self.start_server()

    def start_server(self) -> None:
        """Start the API server alone, as after its end."""
        self._server = self._run(
            "kube-apiserver",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            "--advertise-address=127.0.0.1",
            f"--etcd-servers=http://127.0.0.1:{self._clients}",
            f"--cert-dir={self.directory / 'certs'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'sa.key'}",
            f"--service-account-signing-key-file={self.directory / 'sa.key'}",
            "--service-cluster-ip-range=10.233.0.0/16",
            "--endpoint-reconciler-type=none",
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
        )
        deadline = time.monotonic() + 120
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "kube-apiserver.log").read_text()[-3000:])
            time.sleep(0.1)

    def kill_server(self) -> None:
        """Kill the API server; etcd keeps what there is."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def stop(self) -> None:
        """End both."""
        for each in (self._server, self._etcd):
            if each is not None:
                each.kill()
                each.wait()

    def kubectl(self, *arguments: str, objects: list[dict[str, Any]] | None = None) -> str:
        """Run kubectl, with objects on its stdin; raise `AssertionError` with its words if it refuses."""
        at = ["--server", self.address, "--certificate-authority", str(self.authority), "--token", TOKEN]
        given = "\n---\n".join(map(json.dumps, objects or []))
        done = subprocess.run(
            [str(PROGRAMS / "kubectl"), *at, *arguments], input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr[-2000:]}"
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
        with urllib.request.urlopen(f"http://127.0.0.1:{self._clients}/v3/{call}", body, timeout=10) as answer:
            return json.load(answer)

    def _is_ready(self) -> bool:
        if not self.authority.exists():
            return False
        request = urllib.request.Request(f"{self.address}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            trusted = ssl.create_default_context(cafile=str(self.authority))
            with urllib.request.urlopen(request, timeout=5, context=trusted) as answer:
                return bool(answer.read() == b"ok")
        except OSError:
            return False

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen([str(PROGRAMS / name), *arguments], stdout=log, stderr=log, cwd=self.directory)


@contextlib.contextmanager
def api_server(directory: Path) -> Iterator[ApiServer]:
    """Have an API server for as long as this lasts."""
    server = ApiServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
