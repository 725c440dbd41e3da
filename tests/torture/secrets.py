# SPDX-License-Identifier: Apache-2.0
"""What a broker and the services prove themselves with: certificates and a password, each of which can be renewed."""

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka.admin as confluent
import orjson

from tests.support.enricher.certificates import Certificate, make

ADMIN: Any = confluent
USER = "service"


@dataclass
class Secrets:
    """The newest ones. `give_broker` and `give_services` put them where those read them."""

    directory: Path
    certificates: Certificate = field(init=False)
    password: str = ""
    _generation: int = 0

    def __post_init__(self) -> None:
        (self.directory / "services").mkdir(parents=True)
        self.change_certificates()

    @property
    def keystore(self) -> Path:
        """Where the broker finds its key and certificate."""
        return self.directory / "keystore.pem"

    @property
    def truststore(self) -> Path:
        """Where the broker finds the authority of its clients."""
        return self.directory / "truststore.pem"

    @property
    def flags(self) -> list[str]:
        """Return what the services are told."""
        mounted = self.directory / "services"
        return [
            *("--kafka-security-protocol", "SASL_SSL", "--kafka-sasl-mechanism", "SCRAM-SHA-512"),
            *("--kafka-sasl-username", USER, "--kafka-sasl-password-file", str(mounted / "password")),
            *("--kafka-ssl-ca-file", str(mounted / "ca.pem")),
            *("--kafka-ssl-cert-file", str(mounted / "cert.pem"), "--kafka-ssl-key-file", str(mounted / "key.pem")),
        ]

    def change_certificates(self) -> None:
        """Make a new authority, and a certificate by it, for the broker and for the services."""
        self._generation += 1
        self.certificates = make(self.directory / "made", f"generation-{self._generation}")

    def change_password(self, bootstrap: str) -> None:
        """Tell the broker of a new password; it holds for connections that are opened from now on."""
        self._generation += 1
        self.password = f"secret of generation {self._generation}"
        mechanism = ADMIN.ScramCredentialInfo(ADMIN.ScramMechanism.SCRAM_SHA_512, 4096)
        change = ADMIN.UserScramCredentialUpsertion(USER, mechanism, self.password.encode())
        client = ADMIN.AdminClient({"bootstrap.servers": bootstrap})
        for done in client.alter_user_scram_credentials([change]).values():
            done.result(timeout=20)

    def give_broker(self) -> None:
        """Write what the broker reads when it starts."""
        newest = self.certificates
        self.keystore.write_text(newest.key.read_text() + newest.certificate.read_text())
        self.truststore.write_text(newest.authority.read_text())

    def give_services(self, *names: str) -> None:
        """Replace some of the files that the services read: ca.pem, cert.pem, key.pem, password."""
        newest = self.certificates
        contents = {
            "ca.pem": newest.authority.read_text(),
            "cert.pem": newest.certificate.read_text(),
            "key.pem": newest.key.read_text(),
            "password": self.password + "\n",
        }
        for name in names:
            new = self.directory / "new"
            new.write_text(contents[name])
            new.replace(self.directory / "services" / name)

    def write_another(self, path: Path) -> None:
        """Write what looks right and is not: a key and a certificate by an authority that nobody knows."""
        other = make(path.parent, "another")
        path.write_text(other.key.read_text() + other.certificate.read_text())


@dataclass
class Tokens:
    """A file with a token that does not live long, and is replaced before its time is over."""

    path: Path
    seconds: float = 4.0

    def write(self, seconds: float | None = None) -> None:
        """Replace it."""
        new = self.path.with_suffix(".new")
        new.write_text(token(seconds or self.seconds) + "\n")
        new.replace(self.path)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew it all the while that the context lasts."""
        self.write()
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(self.seconds / 4):
                self.write()

        thread = threading.Thread(target=renew, name="renew-token")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def token(seconds: float, user: str = USER) -> str:
    """Return a JWT without a signature (RFC 7519, section 6) that is valid for so long."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": user, "iat": now, "exp": now + seconds})
    return ".".join(base64.urlsafe_b64encode(orjson.dumps(part)).decode().rstrip("=") for part in parts) + "."
