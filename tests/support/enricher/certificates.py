# SPDX-License-Identifier: Apache-2.0
"""Authorities and server certificates for 127.0.0.1, made with openssl."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from lab.network.namespaces import run


@dataclass(frozen=True)
class Certificate:
    """PEM files of a server and of the authority that vouches for it."""

    authority: Path
    certificate: Path
    key: Path

    def tls(self) -> ssl.SSLContext:
        """Return how a server speaks TLS with it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make(directory: Path, name: str) -> Certificate:
    """Make a new authority and a certificate by it."""
    directory.mkdir(exist_ok=True)
    authority, certificate = directory / f"{name}-ca.pem", directory / f"{name}.pem"
    authority_key, key = directory / f"{name}-ca.key", directory / f"{name}.key"
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    run([*new, "-subj", f"/CN={name} authority", "-keyout", str(authority_key), "-out", str(authority)])
    signed = ["-CA", str(authority), "-CAkey", str(authority_key), "-addext", "subjectAltName=IP:127.0.0.1"]
    plain = ["-addext", "basicConstraints=critical,CA:FALSE"]
    run([*new, "-subj", f"/CN={name}", *signed, *plain, "-keyout", str(key), "-out", str(certificate)])
    return Certificate(authority, certificate, key)
