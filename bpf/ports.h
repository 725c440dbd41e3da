// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The ports of a flow: one is the service, the other is folded to 0.
#pragma once
#include "maps.h"
#include "packet.h"

static __always_inline void set_ports(struct packet *p, struct flow_key *key, const u8 *transport) {
    if (key->protocol != TCP && key->protocol != UDP && key->protocol != SCTP)
        return;
    if (p->dont_split || p->transport + 4 > p->linear)
        return;
    key->src_port = be16(transport);
    key->dst_port = be16(transport + 2);
}

static __always_inline bool is_service(u16 port) {
    u32 zero = 0;
    struct port_set *listed;
    if (port < SERVICE_PORTS)
        return port != 0;
    port -= SERVICE_PORTS;
    listed = services.lookup(&zero);
    return listed && listed->bits[(port >> 3) & (sizeof(listed->bits) - 1)] >> (port & 7) & 1;
}

// Pure in (a, b) and the same in both directions: exactly one in the service set stays, else the lower; equal ones do.
static __always_inline void fold_ports(struct flow_key *key) {
#ifndef PORTS_FULL
    u16 a = key->src_port, b = key->dst_port;
    if (a == b)
        return;
    bool keep_a = is_service(a), keep_b = is_service(b);
    if (keep_a == keep_b)
        keep_a = a < b;
    if (keep_a)
        key->dst_port = 0;
    else
        key->src_port = 0;
#endif
}
