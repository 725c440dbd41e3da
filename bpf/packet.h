// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// One packet on its way through the program: what the hook knows of it, and how it reads the rest.
#pragma once
#include "kernel.h"

#define SKB_DST_PTRMASK (~1ULL)
#define HEADER_BYTES 64 // IPv4 or IPv6 without options, and the first 16 bytes of what follows

enum protocol {
    HOP_BY_HOP = 0,
    ICMP = 1,
    TCP = 6,
    UDP = 17,
    ROUTING = 43,
    FRAGMENT = 44,
    AUTHENTICATION = 51,
    ICMPV6 = 58,
    DESTINATION_OPTIONS = 60,
    SCTP = 132,
    MOBILITY = 135,
};

struct packet {
    u64 skb;            // where LOAD finds its fields
    u64 context;        // tc's
    u64 state;          // netfilter's struct nf_hook_state, 0 at other hooks
    u64 network;        // address of the IP header
    u32 link;           // bytes before it, of the link layer's header
    u32 length;         // of the packet from there
    u32 linear;         // bytes from there that can be read
    u32 transport;      // length of the IP header, with options or extension headers
    u32 iif, oif;       // skb_iif and the output device, 0 if none
    u32 mtu;            // of the output device, if packets are fragmented behind this hook; else 0
    u16 largest;        // length of the longest fragment of those that it was put together from, 0 if it was not
    u16 unfragmentable; // length of the headers that every fragment would repeat
    u16 dont_split;     // not the first fragment: no ports
    u8 local_in;        // at LOCAL_IN or tc's ingress: it ends here, or may
    u8 nat_done;        // the hook comes behind source NAT
    u8 maybe_gso;       // 0: it is known to be no super-packet
    u8 ipv4;
    u8 phantom; // bytes of a header that the wire will not see
    u8 *header; // a copy of the first HEADER_BYTES, kept outside: this struct is zeroed for every packet
};

// The first HEADER_BYTES from the IP header on, out of the linear part; what lies behind its end may be anything.
static __always_inline void read_header(struct packet *p) {
#ifdef DIRECT_LOADS
    u64 from = untrusted(p->network, K_WORDS), *to = (u64 *)p->header;
    for (int i = 0; i < HEADER_BYTES / 8; i++)
        to[i] = *(u64 *)(from + 8 * i);
#else
    read_kernel(p->header, HEADER_BYTES, (void *)p->network);
#endif
}

// What a hook that includes these headers defines for itself, besides LOAD(type, base, offset), a field of a kernel
// struct:

// Copy bytes of the packet, counted from its IP header; 0 if they are there.
static long read_packet(struct packet *p, void *to, u32 bytes, u32 offset);
