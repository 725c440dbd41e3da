# SPDX-License-Identifier: Apache-2.0
"""The loader, but of another program: python -m bench.node.altered_loader NAME, what `hook` compares ours with.

`per_cpu`: the flow map has a value per CPU. `peer`: of the shape of kubezonnet's (at ecfbed7, agent/kubezonnet.c): IPv4
only, a key of addresses and ports, a shared hash map of 1,024 entries, the length as the IP header has it; no segments,
direction, connection or counters. It reads the headers in one call where that one makes three. `roomy_peer`: the
same with as many entries as ours has. The others leave one thing out that a peer's program does not do; `bare`: all.
"""

import sys

from collector.kernel import bpf_source, loader

_BEGIN = "int flows(struct nf_ctx *ctx) {"
_PEER = """
struct peer_key { u32 src, dst; u16 src_port, dst_port; u32 unused; };
BPF_TABLE("hash", struct peer_key, u64, peer, %s);

int flows(struct nf_ctx *ctx) {
    u8 header[28] = {};
    struct peer_key key = {};
    u64 length, *found;
    if (LOAD(u8, ctx->state, K_STATE_PF) != NFPROTO_IPV4)
        return NF_ACCEPT;
    read_kernel(header, sizeof(header), (void *)(LOAD(u64, ctx->skb, K_SKB_HEAD) +
                                                 LOAD(u16, ctx->skb, K_SKB_NETWORK_HEADER)));
    __builtin_memcpy(&key.src, header + 12, 4);
    __builtin_memcpy(&key.dst, header + 16, 4);
    key.src_port = be16(header + 20);
    key.dst_port = be16(header + 22);
    length = be16(header + 2);
    found = peer.lookup(&key);
    if (found)
        __sync_fetch_and_add(found, length);
    else
        peer.update(&key, &length);
    return NF_ACCEPT;
}
"""
# By name: what of the source is put otherwise.
ALTERED = {
    "per_cpu": ('"hash", struct flow_key', '"percpu_hash", struct flow_key'),
    "no_ledger": ("    count(epoch, COUNTER_HOOK, wire.bytes, wire.packets);\n    aside =", "    aside ="),
    "no_wire": ("    measure(p, &wire, transport);", ""),
    "no_aside": ("aside = aside_of(p, &key);", "aside = -1;"),
    "no_connection": ("    set_connection(p, &key);", ""),
    "no_direction": ("key.direction = direction_of(p);", "key.direction = EGRESS;"),
    "no_tunnels": ("    key.encapsulation = encapsulation_of(p, &key, tunnels_here);", ""),
    "no_service": ("    fold_ports(&key);", ""),
    "no_deadman": ("if (!settings || is_stopped())", "if (!settings)"),
}
LEFT_OUT = tuple(name for name in ALTERED if name.startswith("no_"))


def altered(text: str, name: str) -> str:
    """Return the program's source, altered; raise `ValueError` if it does not have what is to be altered."""
    if name in ("peer", "roomy_peer"):
        return text[: text.index(_BEGIN)] + _PEER % ("1024" if name == "peer" else "FLOW_ENTRIES")
    for each in LEFT_OUT if name == "bare" else (name,):
        before, after = ALTERED[each]
        if before not in text:
            raise ValueError(f"the program has no {before!r}")
        text = text.replace(before, after)
    return text


def main(program: str) -> int:
    """Load the program that has this name, of `altered`; return the exit status."""
    read = bpf_source.read

    def alter(name: str) -> str:
        text = read(name)
        return altered(text, program) if _BEGIN in text else text

    bpf_source.read = alter
    return loader.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
