// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// From a packet to the map of the current epoch; the way that all hooks share.
//
// Invariant, per epoch and exact: hook = aside (by reason) + flow map and fast entries + lost (by reason).  All
// additions are atomic, the per-CPU ones too: a softirq may run this program in the middle of itself.
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

// An odd number without a pattern (2^64 divided by the golden ratio): a product's upper bits depend on all bits below.
#define HASH_MULTIPLIER 0x9e3779b97f4a7c15ULL
#define KEY_WORDS (sizeof(struct flow_key) / sizeof(u64))

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

// Whether this packet is in an entry of this CPU's own.  None is given back within an epoch, so that a flow which does
// not have one goes to the map all the time.  Whoever comes while an entry is being claimed, an interrupt or a task
// that was moved here, goes there too.
static __always_inline bool put_fast(u32 epoch, const struct flow_key *key, const struct tally *wire) {
#ifdef FAST_BITS
    const u64 *words = (const u64 *)key, *has;
    u64 hash = 0, differs = 0;
    // An address's last bytes are its word's upper ones.  Flows that are made to meet share an entry, and lose nothing.
#pragma unroll
    for (int i = 0; i < KEY_WORDS; i++)
        hash = (hash ^ words[i] ^ words[i] >> 32) * HASH_MULTIPLIER;
    u32 index = bpf_get_smp_processor_id() << FAST_BITS | hash >> (64 - FAST_BITS);
    struct fast_entry *entry = epoch ? fast1.lookup(&index) : fast0.lookup(&index);
    if (!entry)
        return false; // a CPU whose number is above how many there can be
    if (entry->state != FAST_TAKEN) {
        if (__sync_val_compare_and_swap(&entry->state, FAST_FREE, FAST_CLAIMED) != FAST_FREE)
            return false;
        entry->key = *key;
        entry->tally = *wire;
        __sync_val_compare_and_swap(&entry->state, FAST_CLAIMED, FAST_TAKEN); // orders what is before and behind it
        return true;
    }
    has = (const u64 *)&entry->key;
#pragma unroll
    for (int i = 0; i < KEY_WORDS; i++)
        differs |= has[i] ^ words[i];
    if (differs)
        return false;
    add(&entry->tally, wire->bytes, wire->packets);
    return true;
#else
    return false;
#endif
}

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
    if (put_fast(epoch, &key, &wire))
        return;
    lost = put(epoch, &key, &wire);
    if (lost >= 0)
        count(epoch, lost, wire.bytes, wire.packets);
}
