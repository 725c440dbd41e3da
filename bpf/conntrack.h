// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What connection tracking knows: whether a Service was addressed, and who sends in truth.
#pragma once
#include "layout.h"
#include "packet.h"

#define NFCT_INFOMASK 7ULL
#define IP_CT_IS_REPLY 3

// The sender as it really is, where LOCAL_IN runs behind the translation that gives a reply the Service's address.
static __always_inline void undo_reply_translation(struct packet *p, struct flow_key *key, u64 conntrack) {
    u64 man = conntrack + K_CT_REPLY_SRC;
    u8 port[2] = {};
    if (p->ipv4)
        read_kernel(key->src + 12, 4, (void *)(man + K_CT_MAN_ADDRESS));
    else
        read_kernel(key->src, 16, (void *)(man + K_CT_MAN_ADDRESS));
    if (key->src_port) {
        read_kernel(port, 2, (void *)(man + K_CT_MAN_PORT));
        key->src_port = be16(port);
    }
}

static __always_inline void set_dnat(struct packet *p, struct flow_key *key) {
#ifdef K_CT_STATUS
    u64 nfct = LOAD(u64, p->skb, K_SKB_NFCT), conntrack = nfct & ~NFCT_INFOMASK, status = 0;
    key->dnat = DNAT_NO_CONNTRACK;
    if (!conntrack || read_kernel(&status, sizeof(status), (void *)(conntrack + K_CT_STATUS)))
        return;
    key->dnat = DNAT_NO;
    if (!(status & K_IPS_DST_NAT))
        return;
    if ((nfct & NFCT_INFOMASK) < IP_CT_IS_REPLY)
        key->dnat = DNAT_YES;
    else if (p->local_in)
        undo_reply_translation(p, key, conntrack);
#else
    key->dnat = DNAT_NO_CONNTRACK;
#endif
}
