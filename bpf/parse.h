// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// IP headers: addresses, the protocol behind options and extension headers, where the transport header begins.
#pragma once
#include "layout.h"
#include "packet.h"

#define IPV6_TLV_JUMBO 194
#define MAX_EXTENSION_HEADERS 8
#define BIT(number) (1ULL << (number)) // all extension headers but MOBILITY are below 64, and that is none of these

// The flow's protocol and the transport header's place.  False if these bytes are no IP header.
static __always_inline bool parse_ipv4(struct packet *p, struct flow_key *key) {
    const u8 *h = p->header;
    u32 length = (h[0] & 15) * 4;
    if (h[0] >> 4 != 4 || length < 20 || p->linear < 20)
        return false;
    key->src[10] = key->src[11] = key->dst[10] = key->dst[11] = 0xff;
    __builtin_memcpy(key->src + 12, h + 12, 4);
    __builtin_memcpy(key->dst + 12, h + 16, 4);
    key->protocol = h[9];
    p->dont_split = be16(h + 6) & 0x1fff;
    p->transport = p->unfragmentable = length;
    return true;
}

static __always_inline bool is_extension(u8 protocol) {
    return protocol == HOP_BY_HOP || protocol == ROUTING || protocol == FRAGMENT || protocol == AUTHENTICATION ||
           protocol == DESTINATION_OPTIONS || protocol == MOBILITY;
}

// RFC 8200, 4.  A chain longer than the bound keeps the extension header's own number and has no ports.
static __always_inline void walk_extensions(struct packet *p, struct flow_key *key) {
    u8 next = key->protocol, at[8] = {};
    u32 offset = 40, before;
    u64 repeats = 1, repeatable = BIT(HOP_BY_HOP) | BIT(ROUTING) | BIT(DESTINATION_OPTIONS);
    for (int i = 0; i < MAX_EXTENSION_HEADERS && is_extension(next); i++) {
        if (offset + 8 > p->linear || read_packet(p, at, sizeof(at), offset))
            break;
        if (i == 0 && next == HOP_BY_HOP && at[2] == IPV6_TLV_JUMBO && be16(p->header + 4) == 0)
            p->phantom = 8; // a BIG TCP super-packet's jumbo header (struct hop_jumbo_hdr), if it is one
        // ip6_find_1stfragopt(): what every fragment repeats, which destination options behind a routing header are
        // not.  Without a branch, because the verifier follows both ways of each in every step: six times the work.
        repeats &= repeatable >> (next & 63);
        repeatable &= ~((BIT(ROUTING) >> (next & 63) & 1) << DESTINATION_OPTIONS);
        before = offset;
        if (next == FRAGMENT) {
            p->dont_split = be16(at + 2) >> 3;
            offset += 8;
        } else if (next == AUTHENTICATION) {
            offset += (at[1] + 2) * 4;
        } else {
            offset += (at[1] + 1) * 8;
        }
        p->unfragmentable += (offset - before) & -(u32)repeats;
        next = at[0];
        if (p->dont_split)
            break;
    }
    key->protocol = next;
    p->transport = offset;
    if (is_extension(next))
        p->dont_split = 1;
}

static __always_inline bool parse_ipv6(struct packet *p, struct flow_key *key) {
    const u8 *h = p->header;
    if (h[0] >> 4 != 6 || p->linear < 40)
        return false;
    __builtin_memcpy(key->src, h + 8, 16);
    __builtin_memcpy(key->dst, h + 24, 16);
    key->protocol = h[6];
    p->transport = p->unfragmentable = 40;
    if (is_extension(key->protocol))
        walk_extensions(p, key);
    return true;
}

// The first 16 bytes of the transport header, in `room` if they were not read with the IP header.
static __always_inline const u8 *transport_of(struct packet *p, u8 *room) {
    if (p->ipv4 && p->transport == 20)
        return p->header + 20;
    if (!p->ipv4 && p->transport == 40)
        return p->header + 40;
    if (read_packet(p, room, 16, p->transport))
        p->dont_split = 1;
    return room;
}
