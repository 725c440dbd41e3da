// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What the settings say of whole networks: whose senders are metered themselves, and which peers are folded into one.
// Both are left out of the program where they are not asked for.
#pragma once
#include "maps.h"
#include "packet.h"

#ifdef NETWORK_ENTRIES
// Key: a prefix of addresses as flow_key has them, value: NETWORK_*.  The longest counts.
struct network_key {
    u32 length;
    u8 address[16];
};
BPF_TABLE_PINNED("lpm_trie", struct network_key, u8, networks, NETWORK_ENTRIES, PIN_GENERATION "/networks",
                 BPF_F_NO_PREALLOC);

static __always_inline u8 network_of(const u8 *address) {
    struct network_key key = {.length = 128};
    u8 *found;
    __builtin_memcpy(key.address, address, 16);
    found = networks.lookup(&key);
    return found ? *found : 0;
}
#endif

// What came from one of the cluster's own networks is metered where it was sent.
static __always_inline bool is_metered_by_sender(const struct flow_key *key) {
#ifdef CLUSTER_CIDRS
    return key->direction == INGRESS && network_of(key->src) & NETWORK_CLUSTER;
#else
    return false;
#endif
}

#ifdef FOLD_LENGTH
// RFC 1918: most addresses of most clusters are seen to be private without a look into the map, which costs 25 ns.
static __always_inline bool is_private(const u8 *ipv4) {
    return ipv4[0] == 10 || (ipv4[0] == 172 && ipv4[1] >> 4 == 1) || (ipv4[0] == 192 && ipv4[1] == 168);
}

// From an address to the prefix that stands for it, in a form that no address has: ff00:<length>00::ffff:a.b.c.d.
static __always_inline void fold_address(u8 *address) {
    if (is_private(address + 12) || network_of(address) & NETWORK_KEPT)
        return;
    address[0] = 0xff;
    address[2] = FOLD_LENGTH;
    address[15] = 0;
    if (FOLD_LENGTH == 0)
        address[12] = address[13] = address[14] = 0;
}
#endif

static __always_inline void fold_addresses(struct packet *p, struct flow_key *key) {
#ifdef FOLD_LENGTH
    if (p->ipv4) {
        fold_address(key->src);
        fold_address(key->dst);
    }
#endif
}
