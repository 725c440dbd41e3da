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

// The service's port stays: of exactly one in the service set that one, else the server's as connection tracking has
// it, else the lower; of equal ones both.  The same in both directions.
//
// Who serves is not known where the set contradicts connection tracking, which takes a connection that it meets in the
// middle for one that begins with whoever speaks then; nor without ports.
static __always_inline void fold_ports(struct flow_key *key) {
    u16 a = key->src_port, b = key->dst_port;
    u8 server = key->connection >> SERVER_SHIFT;
    bool from_server = server == SERVER_SOURCE, keep_a = from_server;
    if (a != b) {
        bool in_a = is_service(a), in_b = is_service(b);
        keep_a = in_a != in_b ? in_a : server ? from_server : a < b;
    }
    if (keep_a != from_server || !(keep_a ? a : b))
        key->connection &= (1 << SERVER_SHIFT) - 1;
#ifndef PORTS_FULL
    if (a == b)
        return;
    if (keep_a)
        key->dst_port = 0;
    else
        key->src_port = 0;
#endif
}
