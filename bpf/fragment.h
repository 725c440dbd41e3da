// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Fragments (RFC 791, 3.2; RFC 8200, 4.5): made behind the hook of what is too long for its way out, or put together
// before it of what came in them.
//
// The arithmetic is ip_do_fragment()'s and ip6_fragment()'s: all fragments but the last carry a multiple of eight, the
// last whatever fits.
#pragma once
#include "layout.h"
#include "packet.h"

#define IPV4_DONT_FRAGMENT 0x4000
#define IPV4_SMALLEST_MTU 552 // net.ipv4.route.min_pmtu, what a learned path MTU cannot go below
#define IPV6_SMALLEST_MTU 1280
#define IPV6_FRAGMENT_HEADER 8
#define RTAX_MTU 2 // include/uapi/linux/rtnetlink.h; _metrics begins at 1
#define DST_METRICS_FLAGS 3ULL
#define MAX_FRAGMENTS 64

// ip_dst_mtu_maybe_forward(): what the path was found to take, the route was told to, else the device takes.
static __always_inline u32 route_mtu(struct packet *p) {
    u64 dst = LOAD(u64, p->skb, K_SKB_REFDST) & SKB_DST_PTRMASK, metrics;
    u32 mtu;
    if (p->ipv4 && !p->iif) { // what is forwarded does not go by what the path was found to take
        mtu = READ(u32, dst + K_RTABLE_PMTU) >> K_RTABLE_PMTU_SHIFT;
        if (mtu && (s64)(bpf_jiffies64() - READ(u64, dst + K_DST_EXPIRES)) < 0)
            return mtu;
    }
    metrics = READ(u64, dst + K_DST_METRICS) & ~DST_METRICS_FLAGS;
    mtu = READ(u32, metrics + (RTAX_MTU - 1) * sizeof(u32));
    return mtu ? mtu : p->mtu;
}

// `room`: bytes behind the header that one packet takes, 8 at least.
static __always_inline u32 pieces_of(u32 data, u32 room) {
    u32 each = room & ~7;
    return data <= room || !each ? 1 : 1 + (data - room + each - 1) / each;
}

// How many fragments hang on the packet, which then go out as they came; 0 if there are none or they do not fit.  By
// calls: with READ the loop is seven times the work for the verifier.
static __always_inline u32 pieces_as_they_came(struct packet *p, u32 data, u32 room) {
    u64 shared = LOAD(u64, p->skb, K_SKB_HEAD) + LOAD(u32, p->skb, K_SKB_END), piece = 0, next = 0;
    u32 length = 0;
    read_kernel(&piece, sizeof(piece), (void *)(shared + K_SHINFO_FRAG_LIST));
    if (!piece)
        return 0;
    for (u32 pieces = 1; pieces <= MAX_FRAGMENTS; pieces++) {
        if (!piece)
            return data <= room && !(data & 7) ? pieces : 0; // what is left is the first one's
        if (read_kernel(&length, sizeof(length), (void *)(piece + K_SKB_LEN)) ||
            read_kernel(&next, sizeof(next), (void *)(piece + K_SKB_NEXT)))
            return 0;
        if (length > room || length > data || (next && length & 7))
            return 0;
        data -= length;
        piece = next;
    }
    return 0;
}

static __always_inline bool may_split(struct packet *p) {
    if (p->local_in)
        return true; // it came in fragments
    if (LOAD(u8, p->skb, K_SKB_IGNORE_DF) & K_SKB_IGNORE_DF_MASK)
        return true;
    return p->ipv4 && !(be16(p->header + 6) & IPV4_DONT_FRAGMENT);
}

// The MTU that this packet will be fragmented by or was, 0 if it is in one piece.
static __always_inline u32 splitting_mtu(struct packet *p, u32 length) {
    u32 smallest = p->ipv4 ? IPV4_SMALLEST_MTU : IPV6_SMALLEST_MTU, mtu = 0;
    if (!p->largest && (!p->mtu || length <= smallest))
        return 0;
    if (!may_split(p))
        return 0;
    if (p->mtu)
        mtu = route_mtu(p);
    if (!p->largest)
        return length > mtu ? mtu : 0;
    if (mtu && !p->ipv4 && length <= mtu && length <= p->largest)
        return 0;
    if (!mtu || p->largest < mtu)
        mtu = p->largest;
    return p->ipv4 || mtu > IPV6_SMALLEST_MTU ? mtu : IPV6_SMALLEST_MTU;
}

static __always_inline void fragment(struct packet *p, struct tally *wire) {
    u32 length = wire->bytes, header = p->unfragmentable, extra = p->ipv4 ? 0 : IPV6_FRAGMENT_HEADER;
    u32 mtu = splitting_mtu(p, length), data, room, pieces;
    if (!mtu || mtu < header + extra + 8 || length < header || length > 65535 + 40)
        return;
    data = length - header;
    room = mtu - header - extra;
    pieces = pieces_as_they_came(p, data, room);
    if (!pieces)
        pieces = pieces_of(data, room);
    wire->packets = pieces;
    wire->bytes = length + (pieces - 1) * header + pieces * extra;
}

// Segments of a super-packet that are too long for the way out, each by itself (ip_finish_output_gso()).  `full`: the
// length of all but the last.
static __always_inline void fragment_segments(struct packet *p, struct tally *wire, u32 full) {
    u32 header = p->unfragmentable, before = wire->packets - 1, mtu;
    if (!p->ipv4 || !p->mtu || full <= IPV4_SMALLEST_MTU || !may_split(p))
        return;
    mtu = route_mtu(p);
    if (full <= mtu || mtu < header + 8)
        return;
    wire->packets = pieces_of(wire->bytes - (u64)before * full - header, mtu - header);
    wire->packets += (u64)before * pieces_of(full - header, mtu - header);
    wire->bytes += (wire->packets - before - 1) * header;
}
