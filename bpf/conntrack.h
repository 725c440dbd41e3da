// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What connection tracking knows: whether a Service was addressed, which end serves, and who sends in truth.
#pragma once
#include "layout.h"
#include "packet.h"

#define NFCT_INFOMASK 7ULL
#define IP_CT_RELATED 1
#define IP_CT_IS_REPLY 3
#define IP_CT_RELATED_REPLY (IP_CT_RELATED + IP_CT_IS_REPLY)
#define IP_CT_UNTRACKED 7

// The sender as it really is, where the hook comes behind translation: what gives a pod's packet the node's address, or
// a reply the Service's.  `man`: the source of the connection's tuple that goes the packet's way.
static __always_inline void restore_source(struct packet *p, struct flow_key *key, u64 man) {
    if (p->ipv4) {
        *(u32 *)(key->src + 12) = READ(u32, man + K_CT_MAN_ADDRESS);
    } else {
        *(u64 *)key->src = READ(u64, man + K_CT_MAN_ADDRESS);
        *(u64 *)(key->src + 8) = READ(u64, man + K_CT_MAN_ADDRESS + 8);
    }
    if (key->src_port)
        key->src_port = __builtin_bswap16(READ(u16, man + K_CT_MAN_PORT));
}

// Who serves is who was addressed first, as far as connection tracking saw; see fold_ports().
static __always_inline void set_connection(struct packet *p, struct flow_key *key) {
#ifdef K_CT_STATUS
    u64 nfct = LOAD(u64, p->skb, K_SKB_NFCT), conntrack = nfct & ~NFCT_INFOMASK, status;
    u32 info = nfct & NFCT_INFOMASK;
    bool reply = info >= IP_CT_IS_REPLY;
    key->connection = DNAT_NO_CONNTRACK;
    if (!conntrack)
        return;
    status = READ(u64, conntrack + K_CT_STATUS);
    key->connection = (reply ? SERVER_SOURCE : SERVER_DESTINATION) << SERVER_SHIFT;
    key->connection |= status & K_IPS_DST_NAT && !reply ? DNAT_YES : DNAT_NO;
    if (!p->nat_done || !(status & (K_IPS_SRC_NAT | K_IPS_DST_NAT)))
        return;
    // An ICMP error is not of the connection that it is about: its sender may be any router.
    if ((info == IP_CT_RELATED || info == IP_CT_RELATED_REPLY) && (key->protocol == ICMP || key->protocol == ICMPV6))
        return;
    restore_source(p, key, conntrack + (reply ? K_CT_REPLY_SRC : K_CT_ORIGINAL_SRC));
#else
    key->connection = DNAT_NO_CONNTRACK;
#endif
}
