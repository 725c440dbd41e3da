# SPDX-License-Identifier: Apache-2.0
"""What the settings of Kafka's transport come to: refused in one line that names them, never plain text in silence."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common.errors import Refusal
from common.kafka import clients
from common.settings import KafkaSettings


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate, its key, plain and encrypted, and passwords, right and wrong."""
    made = tmp_path_factory.mktemp("keys")
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    openssl += ["-subj", "/CN=zonemeter", "-out", "cert", "-keyout", "key"]
    subprocess.run([*openssl, "-passout", "pass:open sesame"], cwd=made, check=True, capture_output=True)
    (made / "right").write_text("open sesame\n")
    (made / "wrong").write_text("open barley\n")
    return made


def settings(**given: Any) -> KafkaSettings:
    return KafkaSettings.model_construct(
        **{name: field.default for name, field in KafkaSettings.model_fields.items()} | given
    )


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("name", ["ca", "cert", "key", "key_password"])
def test_a_file_for_tls_without_tls_is_refused(keys: Path, protocol: str, name: str) -> None:
    setting = f"kafka_ssl_{name}_file"
    with pytest.raises(Refusal, match=f"^{setting} is given, and kafka_security_protocol = '{protocol}'"):
        clients.client_options(settings(**{setting: keys / "cert"}, kafka_security_protocol=protocol))


def test_an_encrypted_key_is_opened_with_the_password_in_a_file(keys: Path) -> None:
    files = {f"kafka_ssl_{name}_file": keys / name for name in ("cert", "key")}
    options = clients.client_options(
        settings(kafka_security_protocol="SSL", **files, kafka_ssl_key_password_file=keys / "right")
    )
    assert isinstance(options["ssl_context"], ssl.SSLContext)


@pytest.mark.parametrize("password", [None, "wrong", "missing"])
def test_an_encrypted_key_without_its_password_is_refused_and_nobody_is_asked(keys: Path, password: str | None) -> None:
    files = {f"kafka_ssl_{name}_file": keys / name for name in ("cert", "key")}
    given = {"kafka_ssl_key_password_file": password and keys / password}
    with pytest.raises(Refusal, match="kafka_ssl_key_password_file"):
        clients.client_options(settings(kafka_security_protocol="SSL", **files, **given))


@pytest.mark.parametrize("name", ["ca", "cert", "key", "key_password"])
def test_a_file_without_end_is_refused(keys: Path, name: str) -> None:
    files = {f"kafka_ssl_{each}_file": keys / each for each in ("cert", "key")} | {
        "kafka_ssl_key_password_file": keys / "right"
    }
    with pytest.raises(Refusal, match=r"is a pipe or a device, not a file"):
        clients.client_options(
            settings(kafka_security_protocol="SSL", **files | {f"kafka_ssl_{name}_file": Path("/dev/zero")})
        )
