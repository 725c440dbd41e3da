// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Count what leaves and enters by the uplinks, per flow, into the map of the current epoch.
//
// It stands in slot 0 of the program array that tc_dispatcher.c tail-calls.  At egress it comes behind source NAT and
// fragmentation and before segmentation, at ingress before all translation.  It needs no more than Linux 5.15 has.
#include "tc.h"
#include "kernel.h"

// The context is no BTF pointer to the verifier, but its address is the sk_buff's.  Without direct loads what is read
// of it, which lies close together, is copied in one call.
#define LOAD(type, base, offset) (*(type *)((base) + (offset)))

#include "account.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define BE16(value) __builtin_bswap16(value)

// Not from the linear part, as netfilter's: at ingress nobody has pulled the headers there yet.  `bytes` is a power of
// two; where the packet is shorter, what there is of them, and zeroes.
static __always_inline long read_packet(struct packet *p, void *to, u32 bytes, u32 offset) {
    u32 left = p->length - offset;
    __builtin_memset(to, 0, bytes);
    if (offset >= p->length)
        return -1;
    if (left > bytes)
        left = bytes;
    asm volatile("" : "+r"(left)); // or the compiler knows better than the verifier, and leaves the bound out
    left = ((left - 1) & (bytes - 1)) + 1;
    return bpf_skb_load_bytes((void *)p->context, p->link + offset, to, left);
}

static __always_inline u32 way_out(struct packet *p) { return p->oif; }

// Loopback is no uplink, and what is looped back turns round above the devices.
static __always_inline int aside_of(struct packet *p, const struct flow_key *key) { return -1; }

// What policies encrypt passes the uplink in one piece: nothing has been seen of what is inside.
static __always_inline bool is_outside_of_ipsec(struct packet *p, const struct flow_key *key) { return false; }

// Most packets' headers are in the linear part, also of those that come in: no call is needed then.  What is used of
// the copy is the IP header and 16 bytes more.
static __always_inline long find_header(struct packet *p) {
#ifdef DIRECT_LOADS
    u32 elsewhere = LOAD(u32, p->skb, K_SKB_DATA_LEN), used = (p->ipv4 ? 20 : 40) + 16;
    if (p->length && (!elsewhere || elsewhere + used <= p->length)) {
        read_header(p);
        return 0;
    }
#endif
    return read_packet(p, p->header, HEADER_BYTES, 0);
}

// What comes in short has been padded to Ethernet's 60 bytes; the IP layer, which cuts that off, is yet to come.
static __always_inline void cut_padding(struct packet *p) {
    u32 total = be16(p->header + 2), payload = be16(p->header + 4), said = total;
    if (!p->ipv4)
        said = payload ? payload + 40 : 0; // 0: a jumbogram
    if (said >= 20 && said < p->length)
        p->length = p->linear = said;
}

int flows(struct __sk_buff *ctx) {
    u8 header[HEADER_BYTES] __attribute__((aligned(8)));
    struct packet p = {.context = (u64)ctx, .header = header, .ipv4 = ctx->protocol == BE16(ETH_P_IP)};
    u32 zero = 0;
    struct control *settings = control.lookup(&zero);
    // Tagged: a VLAN device on top of this one counts it, or has.
    if (!settings || ctx->vlan_present || (!p.ipv4 && ctx->protocol != BE16(ETH_P_IPV6)) || is_stopped())
        return NEXT;
#ifdef DIRECT_LOADS
    p.skb = untrusted((u64)ctx, K_SK_BUFF);
#else
    u8 fields[K_SKB_COPY_BYTES] __attribute__((aligned(8)));
    read_kernel(fields, sizeof(fields), (void *)((u64)ctx + K_SKB_COPY_FROM));
    p.skb = (u64)fields - K_SKB_COPY_FROM;
#endif
    p.local_in = LOAD(u8, p.skb, K_SKB_TC_AT_INGRESS) & K_SKB_TC_AT_INGRESS_MASK;
    p.iif = ctx->ingress_ifindex;
    p.oif = p.local_in ? 0 : ctx->ifindex;
    u16 network = LOAD(u16, p.skb, K_SKB_NETWORK_HEADER);
    p.network = LOAD(u64, p.skb, K_SKB_HEAD) + network;
    p.link = network - LOAD(u16, p.skb, K_SKB_MAC_HEADER);
    p.length = ctx->len - p.link;
    p.linear = p.length;
    p.maybe_gso = ctx->gso_size != 0;
    p.nat_done = !p.local_in;
    if (find_header(&p))
        p.linear = 0;
    else if (p.local_in && !p.maybe_gso)
        cut_padding(&p);
    account(&p, *(volatile u32 *)&settings->epoch & 1, settings->tunnels != 0);
    return NEXT;
}
