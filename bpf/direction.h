// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Which way a packet goes, seen from this node.
#pragma once
#include "maps.h"
#include "packet.h"

static __always_inline bool is_uplink(u32 ifindex) {
    u32 slot = ifindex & (UPLINK_SLOTS - 1), *has = uplink_slots.lookup(&slot);
    if (has && *has == UPLINKS_SHARE_A_SLOT)
        return uplinks.lookup(&ifindex);
    return has && ifindex && *has == ifindex;
}

// The device that the packet really goes out by.  The hook defines it.
static u32 way_out(struct packet *p);

static __always_inline u8 direction_of(struct packet *p) {
    if (!is_uplink(p->iif))
        return EGRESS;
    if (!p->local_in && is_uplink(way_out(p)))
        return RELAY;
    return INGRESS;
}
