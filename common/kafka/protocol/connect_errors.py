# SPDX-License-Identifier: Apache-2.0
"""Why a broker could not be connected to, in one line that names the setting to look at."""

import socket
import ssl
from collections.abc import Iterator

from aiokafka.errors import IllegalSaslStateError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from common.kafka.auth.tokens import SOURCES, NoTokenError
from common.settings import KafkaSettings

# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH.
_OTHER_NAME = (62, 64)
_OF_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "BAD_CERT")


def explain(settings: KafkaSettings, address: str, error: BaseException) -> str:
    """Return in words what stood in the way of a connection to `address` (HOST:PORT)."""
    for cause in _causes(error):
        if words := _tls(settings, address, cause) or _sasl(settings, address, cause) or _network(address, cause):
            return words
    protocol = settings.kafka_security_protocol
    if isinstance(error, TimeoutError):
        return f"{address} does not answer: is it Kafka, and does kafka_security_protocol = {protocol!r} fit?"
    why = " ".join(str(error).split()) or type(error).__name__
    return f"{address} broke the connection off: does kafka_security_protocol = {protocol!r} fit this port? ({why})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _tls(settings: KafkaSettings, address: str, error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_NAME:
            return (
                f"the certificate of {address} is for another name ({error.verify_message}): kafka_bootstrap and the "
                "broker's advertised.listeners must use a name that is in it"
            )
        ca = settings.kafka_ssl_ca_file
        known = f"kafka_ssl_ca_file = {str(ca)!r}" if ca else "kafka_ssl_ca_file, which is not set,"
        return (
            f"the certificate of {address} is not trusted ({error.verify_message}): "
            f"{known} must hold the CA that signed it"
        )
    if not isinstance(error, ssl.SSLError):
        return None
    said = (error.reason or "").replace("_", " ").lower()
    if any(word in (error.reason or "") for word in _OF_CERTIFICATES):
        certificate = settings.kafka_ssl_cert_file
        if certificate is None:
            return f"{address} wants a client's certificate ({said}): kafka_ssl_cert_file is not set"
        return (
            f"{address} refuses this client's certificate ({said}): kafka_ssl_cert_file = {str(certificate)!r} must be "
            "signed by a CA that the broker trusts, and valid now"
        )
    return f"{address}: no TLS ({said}): does kafka_security_protocol = {settings.kafka_security_protocol!r} fit?"


def _sasl(settings: KafkaSettings, address: str, error: BaseException) -> str | None:
    mechanism = settings.kafka_sasl_mechanism
    if isinstance(error, NoTokenError):
        return str(error)
    if isinstance(error, SaslAuthenticationFailed) and mechanism == "OAUTHBEARER":
        name = next(name for name in SOURCES if getattr(settings, name) is not None)
        said = " ".join(str(error.args[0] if error.args else "").split())[:200]
        return f"{address} refuses the token from {name} = {str(getattr(settings, name))!r} ({said})"
    if isinstance(error, SaslAuthenticationFailed):
        return (
            f"{address} refuses user {settings.kafka_sasl_username!r}: no such user with {mechanism}, or the password "
            f"in kafka_sasl_password_file = {str(settings.kafka_sasl_password_file)!r} is wrong"
        )
    if isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
        return f"{address} does not take kafka_sasl_mechanism = {mechanism!r}"
    return None


def _network(address: str, error: BaseException) -> str | None:
    if isinstance(error, socket.gaierror):
        return f"no connection to {address}: {error.strerror}; is its name right?"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError | ConnectionResetError):
        return f"no connection to {address}: {error.strerror}; is it up, and is the address right?"
    return None
