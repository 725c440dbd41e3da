// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What the program shares with collector/kernel/layout.py.  The LAYOUT_* numbers are handed in by the loader from the
// numpy dtypes, so a difference between the two does not compile.
#pragma once

#define SERVICE_PORTS LAYOUT_SERVICE_PORTS // all below it but 0 are services: registered ports, and NodePorts
#define NETWORK_CLUSTER LAYOUT_NETWORK_CLUSTER
#define NETWORK_KEPT LAYOUT_NETWORK_KEPT
#define UPLINK_SLOTS LAYOUT_UPLINK_SLOTS
#define MOST_UPLINKS LAYOUT_MOST_UPLINKS
#define MOST_TUNNELS LAYOUT_MOST_TUNNELS
#define UPLINKS_SHARE_A_SLOT 0xffffffff

enum direction { EGRESS, INGRESS, RELAY };
enum dnat { DNAT_NO, DNAT_YES, DNAT_NO_CONNTRACK };
enum server { SERVER_UNKNOWN, SERVER_DESTINATION, SERVER_SOURCE };

// A flow's `connection`: enum dnat below this bit, enum server from it on.
#define SERVER_SHIFT LAYOUT_SERVER_SHIFT

// What the program puts into a per-epoch counter.  collector/kernel/layout.py names them in the same order.
enum counter {
    COUNTER_HOOK,
    COUNTER_ASIDE_LOOPBACK,
    COUNTER_ASIDE_LOOPED_BACK,
    COUNTER_ASIDE_MALFORMED,
    COUNTER_LOST_MAP_FULL,
    COUNTER_LOST_MAP_BUSY,
    COUNTER_ASIDE_SENDER_IN_CLUSTER,
    COUNTER_ASIDE_COPIED,
    COUNTER_ASIDE_SECOND_PASS,
    COUNTERS,
};

// Room for counters of an epoch, whatever their number: a later version reads an earlier one's maps.
#define COUNTER_ROOM LAYOUT_COUNTER_ROOM

// Addresses in network byte order, IPv4 as ::ffff:a.b.c.d; ports in host byte order.  No holes: it is a hash key.
struct flow_key {
    u8 src[16];
    u8 dst[16];
    u16 src_port;
    u16 dst_port;
    u8 protocol;
    u8 direction;
    u8 connection;
    u8 encapsulation;
};

// IP-layer bytes and packets as they leave the source node: after segmentation and fragmentation.
struct tally {
    u64 bytes;
    u64 packets;
};

// An entry of a CPU's own: one cache line.  Of the flows that are told apart by their hash's first bits it has the one
// that came first.
struct fast_entry {
    struct flow_key key;
    u64 state; // enum fast_state; of 64 bits, as the compiler's atomic operations are
    struct tally tally;
};

enum fast_state { FAST_FREE, FAST_CLAIMED, FAST_TAKEN = LAYOUT_FAST_TAKEN };

struct control {
    u32 epoch;   // which of the two flow maps counts: bit 0
    u32 tunnels; // entries in the map of that name; 0 spares the look-up
};

struct deadman {
    u64 stopped_ns; // since boot: when counting stopped, 0 while it goes on
    u64 looked;     // jiffies when the clock was looked at
};

// A tunnel that ends on this node, as the outer packets show it.
struct tunnel_key {
    u16 port; // host byte order; 0 for protocols without ports
    u8 protocol;
    u8 local; // 1: port is this node's side (WireGuard), 0: the receiver's (VXLAN, Geneve)
};

_Static_assert(sizeof(struct flow_key) == LAYOUT_KEY_SIZE, "flow_key");
_Static_assert(__builtin_offsetof(struct flow_key, dst) == LAYOUT_KEY_DST, "dst");
_Static_assert(__builtin_offsetof(struct flow_key, src_port) == LAYOUT_KEY_SRC_PORT, "src_port");
_Static_assert(__builtin_offsetof(struct flow_key, dst_port) == LAYOUT_KEY_DST_PORT, "dst_port");
_Static_assert(__builtin_offsetof(struct flow_key, protocol) == LAYOUT_KEY_PROTOCOL, "protocol");
_Static_assert(__builtin_offsetof(struct flow_key, direction) == LAYOUT_KEY_DIRECTION, "direction");
_Static_assert(__builtin_offsetof(struct flow_key, connection) == LAYOUT_KEY_CONNECTION, "connection");
_Static_assert(__builtin_offsetof(struct flow_key, encapsulation) == LAYOUT_KEY_ENCAPSULATION, "encapsulation");
_Static_assert(sizeof(struct tally) == LAYOUT_TALLY_SIZE, "tally");
_Static_assert(sizeof(struct flow_key) % 8 == 0, "flow_key in words");
_Static_assert(sizeof(struct fast_entry) == LAYOUT_FAST_SIZE, "fast_entry");
_Static_assert(__builtin_offsetof(struct fast_entry, state) == LAYOUT_FAST_STATE, "state");
_Static_assert(__builtin_offsetof(struct fast_entry, tally) == LAYOUT_FAST_TALLY, "fast tally");
_Static_assert(COUNTERS == LAYOUT_COUNTERS && COUNTERS <= COUNTER_ROOM, "counters");
