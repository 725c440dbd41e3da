// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What a packet comes to on the wire: after segmentation and fragmentation, which come behind the hook.
#pragma once
#include "fragment.h"
#include "layout.h"
#include "packet.h"

#define GSO_BY_FRAGS 0xffff

// Bytes and packets of a GSO super-packet after segmentation, as qdisc_pkt_len_init() reckons (net/core/dev.c): every
// segment carries all headers again.  The number of segments is reckoned, since gso_segs is 0 from a VM or a tap.
static __always_inline void segment(struct packet *p, struct tally *wire, const u8 *transport, u32 gso_size,
                                    u32 gso_segs, u32 gso_type) {
    u32 length = wire->bytes, headers = p->transport, last = 8;
    u8 offset_byte = transport[12];
    if (LOAD(u8, p->skb, K_SKB_ENCAPSULATION) & K_SKB_ENCAPSULATION_MASK) {
        u64 head = LOAD(u64, p->skb, K_SKB_HEAD);
        u16 inner = LOAD(u16, p->skb, K_SKB_INNER_TRANSPORT_HEADER);
        headers = inner - (u32)(p->network - head);
        offset_byte = READ(u8, head + inner + 12);
    } else if (p->phantom) {
        length -= p->phantom;
        headers -= p->phantom;
    }
    if (gso_type & (K_GSO_TCPV4 | K_GSO_TCPV6))
        last = (offset_byte >> 4) * 4;
    else if (gso_type & K_GSO_SCTP)
        last = 12;
    else if (gso_type & K_GSO_UDP)
        last = 0; // fragmented, not segmented: only the IP header comes again
    headers += last;
    if (headers >= length || headers > 1024)
        return;
    if (gso_size != GSO_BY_FRAGS)
        gso_segs = (length - headers + gso_size - 1) / gso_size;
    if (!gso_segs)
        gso_segs = 1;
    wire->bytes = length + (u64)(gso_segs - 1) * headers;
    wire->packets = gso_segs;
    if (gso_size != GSO_BY_FRAGS)
        fragment_segments(p, wire, headers + gso_size);
}

// What skb_shared_info says of segments.
struct gso {
    u16 size, segs;
    u8 between[K_SHINFO_GSO_TYPE - K_SHINFO_GSO_SIZE - 4];
    u32 type;
};

static __always_inline void read_gso(struct packet *p, struct gso *gso) {
    u64 shared = LOAD(u64, p->skb, K_SKB_HEAD) + LOAD(u32, p->skb, K_SKB_END);
#ifdef DIRECT_LOADS
    gso->size = READ(u16, shared + K_SHINFO_GSO_SIZE);
    if (gso->size) {
        gso->segs = READ(u16, shared + K_SHINFO_GSO_SIZE + 2);
        gso->type = READ(u32, shared + K_SHINFO_GSO_TYPE);
    }
#else
    // One read: a second costs a super-packet 22 ns.
    read_kernel(gso, sizeof(*gso), (void *)(shared + K_SHINFO_GSO_SIZE));
#endif
}

static __always_inline void measure(struct packet *p, struct tally *wire, const u8 *transport) {
    struct gso gso = {};
    if (p->maybe_gso)
        read_gso(p, &gso);
    if (gso.size)
        segment(p, wire, transport, gso.size, gso.segs, gso.type);
    else
        fragment(p, wire);
}
