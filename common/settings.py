# SPDX-License-Identifier: Apache-2.0
"""Settings of a service: flags, then ZONEMETER_* variables, then a TOML file, then defaults.

A room declares one class from `ServiceSettings`; each field carries its unit in its name and one sentence of why.
In the TOML file, top-level keys are the settings that all services share, and a table named after the service
holds its own. A value that makes no sense ends the process with exit status 2 and one line that names it.
"""

import contextlib
import re
import socket
import sys
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from common import terminal
from common.flags import FlagParser, refuse
from common.input import toml
from common.input.files import read_bounded
from common.input.locations import without_secrets
from schemas.topics import TopicNames

SERVICES = ("collector", "enricher", "metrics", "flowlog", "audit")
ENV_PREFIX = "ZONEMETER_"

_EPILOG = (
    f"Each flag is also a variable, {ENV_PREFIX}NAME, and a key of the file that --config FILE names; "
    "--print-config shows what is in force."
)
_COMMANDS_EPILOG = (
    f"Each flag is also a variable, {ENV_PREFIX}NAME; of the file that --config FILE names, only what all services "
    "share is read; --print-config shows what is in force."
)

# Short names of flags, for every command that has such a setting.
SHORTCUTS = {"from-time": "from", "to-time": "to", "output": "o", "namespace": "n", "all-namespaces": "A"}

S = TypeVar("S", bound="Settings")


def _host_port(value: str) -> str:
    if (
        not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}", value)
        or int(value.rpartition(":")[2]) > 65535
    ):
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464")
    return value


def _listen(value: str) -> str:
    """Return HOST:PORT, or :PORT for every address; an IPv6 address, as Kubernetes gives it, gets its brackets."""
    host, colon, port = value.rpartition(":")
    if colon and not host:
        _host_port(f"[::]:{port}")
        return value
    with contextlib.suppress(ValueError):
        value = f"[{IPv6Address(host)}]:{port}"
    return _host_port(value)


def _host_ports(value: str) -> str:
    for part in value.split(","):
        _host_port(part)
    return value


def _no_slash(value: str) -> str:
    if "/" in value or not value.isprintable():
        raise ValueError('must not contain "/", which separates the parts of a flow id')
    return value


def check_text(value: str) -> None:
    """Raise `ValueError` for text that can be neither a name nor a path: with a NUL, or bytes that are not UTF-8."""
    if "\x00" in value or (not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)):
        raise ValueError("expected UTF-8 text without NUL")


HostPort = Annotated[str, AfterValidator(_listen)]
HostPorts = Annotated[str, AfterValidator(_host_ports)]
IdPart = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_no_slash)]


class Settings(BaseSettings):
    """The base of everything that reads settings."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_shortcuts=SHORTCUTS,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str):
                check_text(each)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment before what the file said, which comes in as init arguments."""
        return env_settings, init_settings


class KafkaSettings(Settings):
    """How to reach Kafka, and which topics are ours."""

    kafka_bootstrap: HostPorts = Field("127.0.0.1:9092", description="brokers, HOST:PORT[,HOST:PORT...]")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to the brokers"
    )
    kafka_ssl_ca_file: Path | None = Field(None, description="PEM file of the authorities that sign the brokers")
    kafka_ssl_cert_file: Path | None = Field(None, description="PEM file of this client's certificate (mutual TLS)")
    kafka_ssl_key_file: Path | None = Field(None, description="PEM file of this client's private key")
    kafka_ssl_key_password_file: Path | None = Field(
        None, description="file that holds the password of the private key, where that is encrypted"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="used when the protocol is SASL_*"
    )
    kafka_sasl_username: str | None = Field(None, description="user name for SASL, not for OAUTHBEARER")
    kafka_sasl_password_file: Path | None = Field(
        None, description="file that holds the password; a file, because variables and flags leak"
    )
    kafka_sasl_token_file: Path | None = Field(
        None, description="OAUTHBEARER: file that holds the token; to renew the token, replace the file"
    )
    kafka_sasl_token_command: str | None = Field(
        None,
        description="OAUTHBEARER: a program and its arguments, quoted as for a shell, that prints a token within 10 s; "
        "no shell runs it",
    )
    kafka_sasl_msk_region: str | None = Field(
        None,
        description="OAUTHBEARER: region of an Amazon MSK cluster with IAM; tokens are signed with this process's AWS "
        "credentials (needs zonemeter[msk])",
    )
    kafka_sasl_extensions: str | None = Field(
        None, description="OAUTHBEARER: NAME=VALUE,... that go with the token, such as logicalCluster=lkc-1"
    )
    kafka_client_rack: str | None = Field(
        None, description="this process's zone as the brokers name theirs (broker.rack): read from the nearest replica"
    )
    kafka_deadline_seconds: float = Field(
        20.0, gt=0, le=300, description="no await on Kafka lasts longer; then the client is rebuilt"
    )
    topic_prefix: str = Field(
        "zonemeter.", pattern=r"^[a-zA-Z0-9._-]{0,100}$", description="what the five topics' names begin with"
    )
    partitions: int = Field(
        12,
        ge=1,
        le=1000,
        description="partitions of the raw, enriched and ledger topics; to have more, choose a new prefix",
    )

    @property
    def topics(self) -> TopicNames:
        """The topics' names."""
        return TopicNames(self.topic_prefix)


def listen_on(port: int) -> Any:
    """Return the field `listen` of a service: each has a port of its own, so that all can run on one host."""
    return Field(
        f"127.0.0.1:{port}",
        description=f"where /metrics, /healthz and /readyz are served: port {port}; :{port} is on every address",
    )


class ServiceSettings(KafkaSettings):
    """What every service has."""

    cluster: IdPart = Field("default", description="the cluster's name; the first part of every flow id")
    listen: HostPort = listen_on(9464)
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    drain_seconds: float = Field(
        20.0,
        gt=0,
        le=600,
        description="the budget for ending after SIGTERM; less than the pod's grace period. Below 10 s a service may "
        "end with status 1 if Kafka does not answer",
    )


def flags_of(
    cls: type[S], words: str, argv: list[str] | Literal[False] = False
) -> tuple[FlagParser, CliSettingsSource[S]]:
    """Return the parser of a command's own flags, and what it makes of `argv`; `words` follow `zonemeter`."""
    shared = {name for base in (KafkaSettings, ServiceSettings) for name in base.model_fields} & {
        name for name in cls.model_fields if name not in cls.__annotations__
    }
    epilog = _EPILOG if issubclass(cls, ServiceSettings) else _COMMANDS_EPILOG
    parser = FlagParser(f"zonemeter {words}", description=cls.__doc__, shared=shared, epilog=epilog)
    return parser, CliSettingsSource(cls, root_parser=parser, cli_parse_args=argv)


def flags_of_each(words: str) -> FlagParser:
    """Return the parser of the flags that every command has."""
    early = FlagParser(f"zonemeter {words}", add_help=False)
    early.add_argument("--config", type=Path)
    early.add_argument("--print-config", action="store_true")
    return early


def load(cls: type[S], words: str, argv: list[str]) -> S:
    """Read the settings of a command or service: `words` follow `zonemeter`.

    Prints and exits with 0 for --print-config, with 2 for any that make no sense.
    """
    prog = f"zonemeter {words}"
    known, rest = flags_of_each(words).parse_known_args(argv)
    try:
        # Only services have a table in the file.
        from_file = _read_file(cls, words.removeprefix("run "), known.config)
        _, flags = flags_of(cls, words, rest)
        sources: dict[str, Any] = {"_cli_settings_source": flags}
        settings = cls(**sources, **from_file)
    except ValidationError as error:
        for line in _explain(error):
            terminal.complain(f"{prog}: {line}")
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise  # --help that cannot be written
        refuse(prog, f"config = {str(error.filename)!r}: {error.strerror}")
    except (SettingsError, ValueError) as error:
        refuse(prog, str(error))
    if known.print_config:
        terminal.write_json(settings.model_dump(mode="json"))
        sys.exit(0)
    return settings


def default_node_name() -> str:
    """Return this host's name, which Kubernetes gives its node by default."""
    return socket.gethostname()


def _read_file(cls: type[Settings], service: str, path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    check_text(str(path))
    try:
        document = toml.parse(read_bounded(path))
    except ValueError as error:
        raise ValueError(f"config = '{path}': {error}") from error
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    shared = {key: value for key, value in document.items() if key not in tables}
    for key in tables.keys() - set(SERVICES):
        raise ValueError(f"{path}: table [{key}]: expected one of {', '.join(SERVICES)}")
    for key in shared.keys() - set(ServiceSettings.model_fields):
        instead = f"put it under [{service}]?" if issubclass(cls, ServiceSettings) else "give a command's own as flags"
        raise ValueError(f"{path}: {key}: no setting that all services share; {instead}")
    own = tables.get(service, {}) if issubclass(cls, ServiceSettings) else {}
    for key in own.keys() - set(cls.model_fields):
        raise ValueError(f"{path}: [{service}] {key}: no such setting")
    return {key: value for key, value in (shared | own).items() if key in cls.model_fields}


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        name = str(item["loc"][0]) if item["loc"] else "settings"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            lines.append(f"{name} is not set (--{name.replace('_', '-')} or {ENV_PREFIX}{name.upper()})")
        elif not item["loc"]:
            lines.append(message)
        else:
            given = without_secrets(item["input"])
            lines.append(f"{name} (--{name.replace('_', '-')}, {ENV_PREFIX}{name.upper()}) = {given!r}: {message}")
    return lines
