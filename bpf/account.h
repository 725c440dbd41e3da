// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// From a packet to the map of the current epoch; the way that all hooks share.
//
// Invariant, per epoch and exact: hook = aside (by reason) + flow map + lost (by reason).  All additions are atomic,
// the per-CPU ones too: a softirq may run this program in the middle of itself.
#pragma once
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "ports.h"
#include "wire.h"
#include "direction.h"
#include "conntrack.h"
#include "encapsulation.h"
#include "deadman.h"
#include "networks.h"

#define E2BIG 7

static __always_inline void add(struct tally *to, u64 bytes, u64 packets) {
    __sync_fetch_and_add(&to->bytes, bytes);
    __sync_fetch_and_add(&to->packets, packets);
}

static __always_inline void count(u32 epoch, u32 counter, u64 bytes, u64 packets) {
    u32 index = epoch * COUNTER_ROOM + counter;
    struct tally *tally = counters.lookup(&index);
    if (tally)
        add(tally, bytes, packets);
}

// Why the hook puts this packet aside (COUNTER_ASIDE_*), or -1.  The hook defines it.
static int aside_of(struct packet *p, const struct flow_key *key);

// Where this packet is lost to, or -1 if it is in the map.
static __always_inline int put(u32 epoch, struct flow_key *key, struct tally *wire) {
    struct tally *found = epoch ? flows1.lookup(key) : flows0.lookup(key);
    long failed;
    if (!found) {
        failed = epoch ? flows1.insert(key, wire) : flows0.insert(key, wire); // BPF_NOEXIST
        if (!failed)
            return -1;
        found = epoch ? flows1.lookup(key) : flows0.lookup(key); // another CPU was first
    }
    if (!found)
        return failed == -E2BIG ? COUNTER_LOST_MAP_FULL : COUNTER_LOST_MAP_BUSY;
    add(found, wire->bytes, wire->packets);
    return -1;
}

static __always_inline void account(struct packet *p, u32 epoch, bool tunnels_here) {
    struct flow_key key = {};
    struct tally wire = {.bytes = p->length, .packets = 1};
    u8 room[16];
    const u8 *transport;
    int aside, lost;
    if (!(p->ipv4 ? parse_ipv4(p, &key) : parse_ipv6(p, &key))) {
        count(epoch, COUNTER_HOOK, wire.bytes, 1);
        count(epoch, COUNTER_ASIDE_MALFORMED, wire.bytes, 1);
        return;
    }
    transport = transport_of(p, room);
    measure(p, &wire, transport);
    count(epoch, COUNTER_HOOK, wire.bytes, wire.packets);
    aside = aside_of(p, &key);
    if (aside >= 0) {
        count(epoch, aside, wire.bytes, wire.packets);
        return;
    }
    key.direction = direction_of(p);
    set_ports(p, &key, transport);
    set_connection(p, &key);
    key.encapsulation = encapsulation_of(p, &key, tunnels_here);
    if (is_metered_by_sender(&key)) {
        count(epoch, COUNTER_ASIDE_SENDER_IN_CLUSTER, wire.bytes, wire.packets);
        return;
    }
    fold_ports(&key);
    fold_addresses(p, &key);
    lost = put(epoch, &key, &wire);
    if (lost >= 0)
        count(epoch, lost, wire.bytes, wire.packets);
}
