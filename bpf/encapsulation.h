// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The outer packets of this node's own tunnels.
#pragma once
#include "maps.h"
#include "packet.h"

#define ENCAPSULATION_NONE 0
#define ENCAPSULATION_ESP LAYOUT_ENCAPSULATION_ESP

// The outside of IPsec, which the inside has been seen beside: by the policies of this node, whether or not it has a
// device.  The hook defines it.
static bool is_outside_of_ipsec(struct packet *p, const struct flow_key *key);

// Only packets that this node made or that are for itself can be the outside of its own tunnels.
static __always_inline u8 encapsulation_of(struct packet *p, const struct flow_key *key, bool tunnels_here) {
    bool egress = key->direction == EGRESS;
    struct tunnel_key tunnel = {.protocol = key->protocol, .port = key->dst_port};
    u8 *found;
    if (is_outside_of_ipsec(p, key))
        return ENCAPSULATION_ESP;
    if (!tunnels_here || (!p->local_in && p->iif))
        return ENCAPSULATION_NONE;
    found = tunnels.lookup(&tunnel);
    if (found)
        return *found;
    tunnel.local = 1;
    tunnel.port = egress ? key->src_port : key->dst_port;
    found = tunnels.lookup(&tunnel);
    return found ? *found : ENCAPSULATION_NONE;
}
