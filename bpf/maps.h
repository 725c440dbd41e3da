// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Every map of a generation.  Whoever adds one names it in collector/kernel/generation.py or reads it in the loader.
#pragma once
#include "layout.h"

// include/uapi/linux/bpf.h
#define BPF_F_NO_PREALLOC (1U << 0)
#define BPF_F_MMAPABLE (1U << 10)

// Key: flow_key, value: tally, FLOW_ENTRIES each.  Full: counted as lost, in bytes and packets.  Never LRU.
BPF_TABLE_PINNED("hash", struct flow_key, struct tally, flows0, FLOW_ENTRIES, PIN_GENERATION "/flows0");
BPF_TABLE_PINNED("hash", struct flow_key, struct tally, flows1, FLOW_ENTRIES, PIN_GENERATION "/flows1");
#ifdef FAST_BITS
// Key: CPU << FAST_BITS | the first bits of the flow's hash.  Looked up inline, and small enough for a CPU's cache:
// what most packets of most nodes cost.  The collector maps it into its memory (BPF_F_MMAPABLE), which also aligns it.
#define FAST_ENTRIES (FAST_CPUS << FAST_BITS)
BPF_TABLE_PINNED("array", u32, struct fast_entry, fast0, FAST_ENTRIES, PIN_GENERATION "/fast0", BPF_F_MMAPABLE);
BPF_TABLE_PINNED("array", u32, struct fast_entry, fast1, FAST_ENTRIES, PIN_GENERATION "/fast1", BPF_F_MMAPABLE);
#endif
// Key: epoch * COUNTER_ROOM + enum counter.
BPF_TABLE_PINNED("percpu_array", u32, struct tally, counters, 2 * COUNTER_ROOM, PIN_GENERATION "/counters");
BPF_TABLE_PINNED("array", u32, struct control, control, 1, PIN_GENERATION "/control");
// Nanoseconds since boot, suspended time too, after which nothing is counted; 0 for never.  The collector's to write.
BPF_TABLE_PINNED("array", u32, u64, deadline, 1, PIN_GENERATION "/deadline");
// The program's to write; the collector clears it to let counting go on.
BPF_TABLE_PINNED("array", u32, struct deadman, deadman, 1, PIN_GENERATION "/deadman");
// Key: ifindex & (UPLINK_SLOTS - 1), value: the uplink that has this slot, 0 for none, UPLINKS_SHARE_A_SLOT for
// several. An array is looked up inline, a hash costs 8 ns.
BPF_TABLE_PINNED("array", u32, u32, uplink_slots, UPLINK_SLOTS, PIN_GENERATION "/uplink_slots");
// Key: ifindex of a device that leads out of the node.  Twice the room, here and below: the collector adds those that
// are new before it removes those that are gone.  It leaves out what is too many, and says so.
BPF_TABLE_PINNED("hash", u32, u8, uplinks, 2 * MOST_UPLINKS, PIN_GENERATION "/uplinks", BPF_F_NO_PREALLOC);
// Key: how the outer packets of a tunnel of this node look, value: the encapsulation's number in the raw chunk.
BPF_TABLE_PINNED("hash", struct tunnel_key, u8, tunnels, 2 * MOST_TUNNELS, PIN_GENERATION "/tunnels",
                 BPF_F_NO_PREALLOC);
// One bit per port from SERVICE_PORTS on, by the port's low bits: 1 if it is in the service set.
struct port_set {
    u8 bits[(65536 - SERVICE_PORTS) / 8];
};
BPF_TABLE_PINNED("array", u32, struct port_set, services, 1, PIN_GENERATION "/services");
