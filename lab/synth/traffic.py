# SPDX-License-Identifier: Apache-2.0
"""Windows of a made-up cluster's traffic, as its collectors would publish them. The same for the same seed. Pure.

A node has the same flows in each window, and other bytes. Each node's flows are drawn by themselves: a request that one
node counts need not have a reply that another counts.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collector.attach.addresses import OwnAddresses
from collector.kernel.epoch_record import EpochRecord, Phase, Uplink
from collector.kernel.generation import sort_rows
from collector.kernel.layout import COUNTERS, KEY, ROW, SERVER_DESTINATION, SERVER_SHIFT, SERVER_SOURCE, Rows
from collector.kernel.pins import Meta
from collector.outbox.spool_file import EncodedWindow
from collector.window.encode import in_map, ledger_record, raw_chunks, received
from lab.synth.cluster import ZONES, Addresses, Numbers, SynthCluster, text
from schemas.raw import DIRECTIONS

WINDOW_MS = 10_000
# A node's flows by what they are, in hundredths: a part of each that is as good as exact, whatever the seed.
# `from pods` came from nodes that count them, too, and are put aside for that.
SHARES = {"to pods": 46, "from pods": 30, "to outside": 10, "from outside": 4, "node": 10}
# Of those between pods, what crosses zones; of the requests to pods, what goes through a Service.
CROSS_ZONE, DNAT = 0.4, 0.75
# The others are drawn from these, the k-th a k-th as often.
_OUTSIDE, _OUTSIDE_ADDRESSES = 52 << 24, 2_000
_KUBELET, _HTTPS = 10250, 443
# Ports from here on are those of the flows that would be another's equals; no workload serves one.
_MORE_PORTS = 10_300
MOST_FLOWS = 39_000
_TCP = 6
# Rows whose keys are kept from one window to the next, some 60 bytes each.
_KEPT_ROWS = 2_000_000
_LEAST_BYTES, _MOST_BYTES, _TAIL = 300, 10**10, 0.6
_LINK_HEADER = 14
_MAPPED = np.frombuffer(b"\0" * 10 + b"\xff\xff", np.uint8)
# Even shares of any stretch of rows, each independent of the others: the R3 sequence, powers of 1/x, x^4 = x + 1.
_STEPS = (0.8191725134, 0.6710436067, 0.5497004779)
_EGRESS, _INGRESS = DIRECTIONS.index("egress"), DIRECTIONS.index("ingress")


@dataclass(frozen=True)
class Traffic:
    """What the nodes of a cluster count: `flows` a node and window, the first of which begins at `begin_ms`."""

    cluster: SynthCluster
    name: str
    flows: int
    begin_ms: int
    _kept: dict[int, Rows] = field(default_factory=dict)

    def window(self, node: int, number: int) -> EncodedWindow:
        """Return a node's window, from 0 on."""
        start_ms = self.begin_ms + number * WINDOW_MS
        rows = self._rows(node, number)
        record = EpochRecord(
            Phase.FROZEN,
            number + 1,
            start_ms,
            start_ms + WINDOW_MS,
            counters=((in_map(rows).bytes, in_map(rows).packets), *[(0, 0)] * (COUNTERS - 1)),
            uplinks=(_uplink(rows),),
        )
        meta, address = self._meta(node), text(self.cluster.node_addresses[node])
        own = OwnAddresses(frozenset({_mapped(self.cluster.node_addresses[node : node + 1]).tobytes()}), (address,))
        return EncodedWindow(
            ledger_record(meta, record, rows, partition=0),
            maybe_repeat=False,
            chunks=lambda repeat: raw_chunks(meta, record, rows, maybe_repeat=repeat, own=own),
        )

    def _meta(self, node: int) -> Meta:
        boot = hashlib.sha256(f"{self.cluster.seed}/{node}".encode()).hexdigest()[:12]
        # A run later than this one is a later life of the collectors, on nodes that did not boot meanwhile.
        return Meta("", self.begin_ms // 1000, self.name, self.cluster.node_name(node), boot)

    def _rows(self, node: int, number: int) -> Rows:
        rows = self._flows_of(node).copy()
        sizes = np.random.default_rng((self.cluster.seed, node, number)).random(self.flows)
        size = np.minimum(_LEAST_BYTES / (1 - sizes) ** (1 / _TAIL), _MOST_BYTES).astype(np.uint64)
        rows["tally"]["bytes"], rows["tally"]["packets"] = size, size // 900 + 1
        return rows

    def _flows_of(self, node: int) -> Rows:
        """Return a node's flows in their order, of no bytes yet."""
        rows = self._kept.get(node)
        if rows is None:
            rows = np.zeros(self.flows, ROW)
            rows["key"] = self._keys(node)
            rows = sort_rows(rows)
            if len(self._kept) * self.flows < _KEPT_ROWS:
                self._kept[node] = rows
        return rows

    def _keys(self, node: int) -> NDArray[np.void]:
        """Return the distinct keys of a node's flows. `near`: the end on this node; `far`: the other."""
        cluster, kind = self.cluster, self._kinds
        chance = np.random.default_rng((cluster.seed, node))
        own = cluster.pods_of(node)
        # Some pods of a node talk much more than the others.
        near = own[(chance.random(self.flows) ** 2 * len(own)).astype(np.int64)]
        zones = (node + self._crosses * chance.integers(1, len(ZONES), self.flows)) % len(ZONES)
        peers = cluster.peers(zones, chance.random(self.flows))
        outside = _OUTSIDE + (_OUTSIDE_ADDRESSES ** chance.random(self.flows)).astype(np.int64)
        others = cluster.node_addresses[(node + chance.integers(1, cluster.nodes, self.flows)) % cluster.nodes]
        # Nobody sends to itself over the network, nor to this node from this node over an uplink.
        elsewhere = np.where(self._comes_in, cluster.pod_nodes[peers] != node, peers != near)
        pods = np.where(elsewhere, cluster.pod_addresses[peers], others)
        of = [kind == place for place in range(len(SHARES))]
        far = np.select([of[0] | of[1], of[2] | of[3]], [pods, outside], others)
        far_port = np.select([(of[0] | of[1]) & elsewhere, of[2] | of[3]], [cluster.pod_ports[peers], _HTTPS], _KUBELET)
        return self._keyed(cluster.pod_addresses[near], far, cluster.pod_ports[near], far_port)

    def _keyed(self, near: Addresses, far: Numbers, near_port: Numbers, far_port: Numbers) -> NDArray[np.void]:
        keys = np.zeros(self.flows, KEY)
        comes_in, serves_here = self._comes_in, self._serves_here
        keys["src"] = _mapped(np.where(comes_in, far, near))
        keys["dst"] = _mapped(np.where(comes_in, near, far))
        keys["protocol"], keys["direction"] = _TCP, np.where(comes_in, _INGRESS, _EGRESS)
        is_destination = serves_here == comes_in
        server = np.where(is_destination, SERVER_DESTINATION, SERVER_SOURCE)
        keys["connection"] = server << SERVER_SHIFT | (self._dnat & is_destination)
        port = np.where(serves_here, near_port, far_port)
        _, first = np.unique(_with_port(keys, is_destination, port).view(f"V{KEY.itemsize}"), return_index=True)
        more = np.ones(self.flows, bool)
        more[first] = False
        return _with_port(keys, is_destination, np.where(more, _MORE_PORTS + np.arange(self.flows), port))

    def _spread(self, step: int) -> NDArray[np.float64]:
        return np.arange(self.flows, dtype=np.float64) * _STEPS[step] % 1

    @cached_property
    def _kinds(self) -> Numbers:
        """Which of `SHARES` each row is."""
        upto = np.cumsum(list(SHARES.values()))
        kinds: Numbers = np.searchsorted(upto, (np.arange(self.flows) + 0.5) / self.flows * upto[-1], side="right")
        return kinds

    @cached_property
    def _comes_in(self) -> NDArray[np.bool_]:
        return np.isin(self._kinds, [place for place, name in enumerate(SHARES) if name.startswith("from ")])

    @cached_property
    def _crosses(self) -> NDArray[np.bool_]:
        return self._spread(0) < CROSS_ZONE

    @cached_property
    def _serves_here(self) -> NDArray[np.bool_]:
        """Whether the end on this node is the server: half of what goes out are requests, half replies."""
        return self._spread(1) < 0.5

    @cached_property
    def _dnat(self) -> NDArray[np.bool_]:
        """Which requests to pods went to a ClusterIP before."""
        found: NDArray[np.bool_] = (self._kinds == 0) & (self._spread(2) < DNAT)
        return found


def _with_port(keys: NDArray[np.void], is_destination: NDArray[np.bool_], port: Any) -> NDArray[np.void]:
    keys["dst_port"], keys["src_port"] = np.where(is_destination, port, 0), np.where(is_destination, 0, port)
    return keys


def _mapped(addresses: Any) -> NDArray[np.uint8]:
    """Return n x 16 octets."""
    found = np.empty((len(addresses), 16), np.uint8)
    found[:, :12] = _MAPPED
    found[:, 12:] = np.asarray(addresses).astype(">u4").view(np.uint8).reshape(-1, 4)
    return found


def _uplink(rows: Rows) -> Uplink:
    """Return a device that counted what the hook saw, with link-layer headers: nothing passed it by."""
    got = received(rows)
    sent_bytes, sent_packets = in_map(rows).bytes - got.bytes, in_map(rows).packets - got.packets
    end = (sent_bytes + sent_packets * _LINK_HEADER, sent_packets, got.bytes + got.packets * _LINK_HEADER, got.packets)
    return Uplink("eth0", (0, 0, 0, 0), end)
