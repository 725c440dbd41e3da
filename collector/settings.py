# SPDX-License-Identifier: Apache-2.0
"""The collector's settings."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field

from collector.kernel.networks import ExternalAddresses, parse_networks
from common.input.checked import checked
from common.input.durations import parse_duration
from common.input.sizes import Size
from common.settings import HostPort, IdPart, ServiceSettings, default_node_name, listen_on

_LOWEST_PORT, _HIGHEST_PORT = 1, 65535
_MOST_TUNNEL_PORTS = 512  # of MOST_TUNNELS: the others are those of devices
_SHORTEST_DEADMAN_MS = 300_000


def parse_ports(text: str) -> set[int]:
    """Return the ports of a list such as "50051,40000-40100"; ValueError if it is none."""
    ports: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part!r} is not a port; expected, for example, 50051,40000-40100")
        low, high = int(first), int(last or first)
        if not _LOWEST_PORT <= low <= high <= _HIGHEST_PORT:
            raise ValueError(f"{part!r} is not within {_LOWEST_PORT} to {_HIGHEST_PORT}")
        ports.update(range(low, high + 1))
    return ports


def _tunnel_ports(text: str) -> str:
    if len(parse_ports(text)) > _MOST_TUNNEL_PORTS:
        raise ValueError(f"expected {_MOST_TUNNEL_PORTS} ports at most: what uses one of them counts as outer packets")
    return text


def _deadman(value: str) -> str:
    if value != "0" and parse_duration(value) < _SHORTEST_DEADMAN_MS:
        raise ValueError("expected 5m or more: a collector gives its sign of life once a minute")
    return value


def _window(value: int) -> int:
    if 60 % value:
        raise ValueError("expected a number that divides 60, so that windows begin with the minute")
    return value


def _pin_dir(value: Path) -> Path:
    if not value.is_absolute() or "." in str(value) or '"' in str(value) or "\\" in str(value):
        raise ValueError('expected an absolute path without "." (a bpffs takes none), quotes or backslashes')
    return value


Ports = Annotated[str, checked(parse_ports)]
TunnelPorts = Annotated[str, checked(_tunnel_ports)]
PinDir = Annotated[Path, AfterValidator(_pin_dir)]


class CollectorSettings(ServiceSettings):
    """Count this node's packets in the kernel and publish them to Kafka, a window at a time."""

    listen: HostPort = listen_on(9460)
    node: IdPart = Field(default_factory=default_node_name, description="this node's name, as Kubernetes has it")
    window_seconds: Annotated[int, AfterValidator(_window)] = Field(
        10, ge=1, le=60, description="length of a window; divides 60, so that all nodes' windows agree"
    )
    map_memory: Size = Field(
        ByteSize(64 * 1024 * 1024),
        ge=4096,
        le=8 * 1024**3,
        description="kernel memory of the two flow maps together, such as 64MiB (262,144 flows a window)",
    )
    ports: Literal["service", "full"] = Field(
        "service", description="service: the client's port is folded to 0; full: both are kept, many more flows"
    )
    service_ports: Ports = Field(
        "", description="ports above 32767 that are services too, such as 50051,40000-40100; all below are"
    )
    hook: Literal["auto", "netfilter", "tc"] = Field(
        "auto",
        description="where packets are counted: auto takes netfilter, or tc where the kernel is older than 6.4 or "
        "the network plugin bypasses netfilter",
    )
    cluster_cidrs: Annotated[str, checked(parse_networks)] = Field(
        "",
        description="networks whose pods and nodes are all metered, such as 10.42.0.0/16,fd42::/48: what is received "
        "from there is put aside in the kernel, not in the enricher, and takes no room in the map",
    )
    external_addresses: ExternalAddresses = Field(
        "full",
        description="how public IPv4 addresses outside cluster_cidrs are kept: full: as they are; prefix: as their "
        "/24; none: all as one; a crowd of clients then cannot fill the map",
    )
    deadman: Annotated[str, AfterValidator(_deadman)] = Field(
        "6h", description="the kernel stops counting after this long without a collector, such as 6h; 0: never"
    )
    uplinks: str = Field(
        "", description="devices that lead out of the node, such as eth0,ens*; empty: found over rtnetlink"
    )
    tunnel_ports: TunnelPorts = Field(
        "",
        description="UDP ports of tunnel programs on this node, such as 1194,4242: their packets count as outer "
        "ones; Tailscale's, NetBird's, Nebula's and flannel's usual ones are known",
    )
    pin_dir: PinDir = Field(
        Path("/sys/fs/bpf/zonemeter"), description="where maps, programs and links stay when the collector is away"
    )
    spool_dir: Path = Field(
        Path("/var/lib/zonemeter/spool"),
        description="where closed windows wait while Kafka is away, in a directory named after the pin directory",
    )
    spool_size: Size = Field(
        ByteSize(512 * 1024 * 1024),
        ge=0,
        description="limit of the spool on disk; 512 MiB hold an hour of 130,000 flows a window; full: windows grow",
    )
    load: Literal["start", "only", "never"] = Field(
        "start",
        description="start: load the program at the start, and compile it if it is not pinned; only: do that, then "
        "end; never: take over what is pinned, which needs no compiler",
    )
    boot_id_file: Path = Field(
        Path("/proc/sys/kernel/random/boot_id"),
        description="file with the id of this boot; it changes with each start of the kernel",
    )

    @property
    def deadman_seconds(self) -> float:
        """`deadman` in seconds; 0: never."""
        return 0 if self.deadman == "0" else parse_duration(self.deadman) / 1000
