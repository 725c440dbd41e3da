// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Count what passes netfilter's POST_ROUTING and LOCAL_IN, per flow, into the map of the current epoch.
//
// It stands in slot 0 of the program array that dispatcher.c tail-calls.  The verdict is always NF_ACCEPT.  Offsets of
// the kernel's structs (K_*) come from its BTF as -D flags, because bcc has no CO-RE.
//
// Invariant, per epoch and exact: hook = aside (by reason) + flow map + lost (by reason).  All additions are atomic,
// the per-CPU ones too: a softirq may run this program in the middle of itself.
#include "flows.h"

#define E2BIG 7
#define NF_INET_LOCAL_IN 1
#define NFPROTO_IPV4 2
#define LOOPBACK_IFINDEX 1 // include/net/flow.h: the same in every network namespace
#define PACKET_LOOPBACK 5  // include/uapi/linux/if_packet.h
#define RTCF_BROADCAST_OR_MULTICAST 0x30000000
#define SKB_DST_PTRMASK (~1ULL)
#define NFCT_INFOMASK 7ULL
#define IP_CT_IS_REPLY 3
#define IPV6_TLV_JUMBO 194
#define GSO_BY_FRAGS 0xffff
#define ENCAPSULATION_NONE 0
#define MAX_EXTENSION_HEADERS 8
#define HEADER_BYTES 64 // IPv4 or IPv6 without options, and the first 16 bytes of what follows

enum protocol {
    HOP_BY_HOP = 0,
    TCP = 6,
    UDP = 17,
    ROUTING = 43,
    FRAGMENT = 44,
    AUTHENTICATION = 51,
    DESTINATION_OPTIONS = 60,
    SCTP = 132,
    MOBILITY = 135,
};

// Key: flow_key, value: tally, FLOW_ENTRIES each.  Full: counted as lost, in bytes and packets.  Never LRU.
BPF_TABLE_PINNED("hash", struct flow_key, struct tally, flows0, FLOW_ENTRIES, PIN_GENERATION "/flows0");
BPF_TABLE_PINNED("hash", struct flow_key, struct tally, flows1, FLOW_ENTRIES, PIN_GENERATION "/flows1");
// Key: epoch * COUNTERS + enum counter.
BPF_TABLE_PINNED("percpu_array", u32, struct tally, counters, 2 * COUNTERS, PIN_GENERATION "/counters");
BPF_TABLE_PINNED("array", u32, struct control, control, 1, PIN_GENERATION "/control");
// Key: ifindex of a device that leads out of the node.  Full: the collector says so, it fills it.
BPF_TABLE_PINNED("hash", u32, u8, uplinks, 1024, PIN_GENERATION "/uplinks");
// Key: how the outer packets of a tunnel of this node look, value: the encapsulation's number in the raw chunk.
BPF_TABLE_PINNED("hash", struct tunnel_key, u8, tunnels, 1024, PIN_GENERATION "/tunnels");
// One bit per port: 1 if it is in the service set.
struct port_set {
    u8 bits[8192];
};
BPF_TABLE_PINNED("array", u32, struct port_set, services, 1, PIN_GENERATION "/services");
// state and skb are BTF pointers to the verifier: fields by direct loads.
// By number: bcc turns the helper's name into bpf_probe_read where it cannot look into /proc/kallsyms (CAP_SYSLOG), and
// a netfilter program may not call that one.
static long (*read_kernel)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_kernel;

#define __always_inline inline __attribute__((always_inline))
#define LOAD(type, base, offset) (*(type *)((base) + (offset)))

struct packet {
    u64 skb, state;
    u64 network;    // address of the IP header
    u32 linear;     // bytes from there that are in the linear part
    u32 transport;  // length of the IP header, with options or extension headers
    u32 iif, oif;   // skb_iif and the output device, 0 if none
    u16 dont_split; // not the first fragment: no ports
    u8 local_in;
    u8 ipv4;
    u8 phantom; // bytes of a header that the wire will not see
    u8 header[HEADER_BYTES];
};

static __always_inline void add(struct tally *to, u64 bytes, u64 packets) {
    __sync_fetch_and_add(&to->bytes, bytes);
    __sync_fetch_and_add(&to->packets, packets);
}

static __always_inline void count(u32 epoch, u32 counter, u64 bytes, u64 packets) {
    u32 index = epoch * COUNTERS + counter;
    struct tally *tally = counters.lookup(&index);
    if (tally)
        add(tally, bytes, packets);
}

static __always_inline u16 be16(const u8 *at) { return (u16)at[0] << 8 | at[1]; }

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
    p->transport = length;
    return true;
}

static __always_inline bool is_extension(u8 protocol) {
    return protocol == HOP_BY_HOP || protocol == ROUTING || protocol == FRAGMENT || protocol == AUTHENTICATION ||
           protocol == DESTINATION_OPTIONS || protocol == MOBILITY;
}

// RFC 8200, 4.  A chain longer than the bound keeps the extension header's own number and has no ports.
static __always_inline void walk_extensions(struct packet *p, struct flow_key *key) {
    u8 next = key->protocol, at[8] = {};
    u32 offset = 40;
    for (int i = 0; i < MAX_EXTENSION_HEADERS && is_extension(next); i++) {
        if (offset + 8 > p->linear || read_kernel(at, sizeof(at), (void *)(p->network + offset)))
            break;
        if (i == 0 && next == HOP_BY_HOP && at[2] == IPV6_TLV_JUMBO && be16(p->header + 4) == 0)
            p->phantom = 8; // a BIG TCP super-packet's jumbo header (struct hop_jumbo_hdr), if it is one
        if (next == FRAGMENT) {
            p->dont_split = be16(at + 2) >> 3;
            offset += 8;
        } else if (next == AUTHENTICATION) {
            offset += (at[1] + 2) * 4;
        } else {
            offset += (at[1] + 1) * 8;
        }
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
    p->transport = 40;
    if (is_extension(key->protocol))
        walk_extensions(p, key);
    return true;
}

// The first 16 bytes of the transport header; zeroes beyond the linear part.
static __always_inline void read_transport(struct packet *p, u8 *to) {
    if (p->ipv4 && p->transport == 20)
        __builtin_memcpy(to, p->header + 20, 16);
    else if (!p->ipv4 && p->transport == 40)
        __builtin_memcpy(to, p->header + 40, 16);
    else if (read_kernel(to, 16, (void *)(p->network + p->transport)))
        p->dont_split = 1;
}

static __always_inline bool is_service(u16 port) {
    u32 zero = 0;
    struct port_set *set = services.lookup(&zero);
    return set && set->bits[port >> 3] >> (port & 7) & 1;
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

static __always_inline void set_ports(struct packet *p, struct flow_key *key, const u8 *transport) {
    if (key->protocol != TCP && key->protocol != UDP && key->protocol != SCTP)
        return;
    if (p->dont_split || p->transport + 4 > p->linear)
        return;
    key->src_port = be16(transport);
    key->dst_port = be16(transport + 2);
}

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
        read_kernel(&offset_byte, 1, (void *)(head + inner + 12));
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
}

// A packet longer than the output device takes leaves in fragments (RFC 791, RFC 8200): the hook comes before that.
static __always_inline void fragment(struct packet *p, struct tally *wire) {
    u64 out = LOAD(u64, p->state, K_STATE_OUT);
    u32 length = wire->bytes, mtu = LOAD(u32, out, K_DEV_MTU), header = p->transport, each;
    if (p->local_in || mtu < 68 || length <= mtu || length > 65535 + 40)
        return;
    if (!p->ipv4)
        header = 40;
    each = (mtu - header - (p->ipv4 ? 0 : 8)) & ~7;
    if (!each || mtu <= header + 8)
        return;
    wire->packets = (length - header + each - 1) / each;
    wire->bytes = length + (wire->packets - 1) * header + (p->ipv4 ? 0 : wire->packets * 8);
}

static __always_inline void measure(struct packet *p, struct tally *wire, const u8 *transport) {
    u64 head = LOAD(u64, p->skb, K_SKB_HEAD);
    u32 end = LOAD(u32, p->skb, K_SKB_END);
    struct {
        u16 size, segs;
    } gso = {};
    read_kernel(&gso, sizeof(gso), (void *)(head + end + K_SHINFO_GSO_SIZE));
    if (gso.size) {
        u32 type = 0;
        read_kernel(&type, sizeof(type), (void *)(head + end + K_SHINFO_GSO_TYPE));
        segment(p, wire, transport, gso.size, gso.segs, type);
    } else {
        fragment(p, wire);
    }
}

// The copy of a multicast or broadcast packet that the kernel loops back to this node's own listeners.  At LOCAL_IN it
// says so itself; at POST_ROUTING it is a clone and has lost its socket (ip_mc_output(), ip6_finish_output2()).
static __always_inline bool is_looped_back(struct packet *p, const struct flow_key *key) {
    u8 type = LOAD(u8, p->skb, K_SKB_PKT_TYPE) >> K_SKB_PKT_TYPE_SHIFT & 7;
    u32 flags = 0;
    u64 dst;
    if (p->local_in)
        return type == PACKET_LOOPBACK;
    if (!LOAD(u64, p->state, K_STATE_SK) || LOAD(u64, p->skb, K_SKB_SK) ||
        LOAD(u8, p->skb, K_SKB_ENCAPSULATION) & K_SKB_ENCAPSULATION_MASK)
        return false;
    if (!p->ipv4)
        return key->dst[0] == 0xff;
    dst = LOAD(u64, p->skb, K_SKB_REFDST) & SKB_DST_PTRMASK;
    read_kernel(&flags, sizeof(flags), (void *)(dst + K_RTABLE_FLAGS));
    return flags & RTCF_BROADCAST_OR_MULTICAST;
}

static __always_inline bool is_uplink(u32 ifindex) { return ifindex && uplinks.lookup(&ifindex); }

static __always_inline u8 direction_of(struct packet *p) {
    if (!is_uplink(p->iif))
        return EGRESS;
    if (!p->local_in && is_uplink(p->oif))
        return RELAY;
    return INGRESS;
}

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

// Only packets that this node made or that are for itself can be the outside of its own tunnels.
static __always_inline u8 encapsulation_of(struct packet *p, const struct flow_key *key) {
    bool egress = key->direction == EGRESS;
    struct tunnel_key tunnel = {.protocol = key->protocol, .port = key->dst_port};
    u8 *found;
    if (!p->local_in && p->iif)
        return ENCAPSULATION_NONE;
    found = tunnels.lookup(&tunnel);
    if (found)
        return *found;
    tunnel.local = 1;
    tunnel.port = egress ? key->src_port : key->dst_port;
    found = tunnels.lookup(&tunnel);
    return found ? *found : ENCAPSULATION_NONE;
}

// Where this packet is lost to, or -1 if it is in the map.
static __always_inline int put(u32 epoch, struct flow_key *key, struct tally *wire) {
    struct tally *found = epoch ? flows1.lookup(key) : flows0.lookup(key);
    long failed;
    if (!found) {
        failed = epoch ? flows1.insert(key, wire) : flows0.insert(key, wire); // BPF_NOEXIST
        if (!failed)
            return -1;
        found = epoch ? flows1.lookup(key) : flows0.lookup(key); // another CPU was first
    }
    if (!found)
        return failed == -E2BIG ? COUNTER_LOST_MAP_FULL : COUNTER_LOST_MAP_BUSY;
    add(found, wire->bytes, wire->packets);
    return -1;
}

static __always_inline void account(struct packet *p, u32 epoch, bool tunnels_here) {
    struct flow_key key = {};
    struct tally wire = {.bytes = LOAD(u32, p->skb, K_SKB_LEN), .packets = 1};
    u8 transport[16] = {};
    int lost;
    if (!(p->ipv4 ? parse_ipv4(p, &key) : parse_ipv6(p, &key))) {
        count(epoch, COUNTER_HOOK, wire.bytes, 1);
        count(epoch, COUNTER_ASIDE_MALFORMED, wire.bytes, 1);
        return;
    }
    read_transport(p, transport);
    measure(p, &wire, transport);
    count(epoch, COUNTER_HOOK, wire.bytes, wire.packets);
    if ((p->local_in ? p->iif : p->oif) == LOOPBACK_IFINDEX) {
        count(epoch, COUNTER_ASIDE_LOOPBACK, wire.bytes, wire.packets);
        return;
    }
    if (is_looped_back(p, &key)) {
        count(epoch, COUNTER_ASIDE_LOOPED_BACK, wire.bytes, wire.packets);
        return;
    }
    key.direction = direction_of(p);
    set_ports(p, &key, transport);
    set_dnat(p, &key);
    if (tunnels_here)
        key.encapsulation = encapsulation_of(p, &key);
    fold_ports(&key);
    lost = put(epoch, &key, &wire);
    if (lost >= 0)
        count(epoch, lost, wire.bytes, wire.packets);
}

int flows(struct nf_ctx *ctx) {
    struct packet p = {.skb = ctx->skb, .state = ctx->state};
    u32 zero = 0;
    struct control *settings = control.lookup(&zero);
    if (!settings)
        return NF_ACCEPT;
    p.local_in = LOAD(u8, p.state, K_STATE_HOOK) == NF_INET_LOCAL_IN;
    p.ipv4 = LOAD(u8, p.state, K_STATE_PF) == NFPROTO_IPV4;
    p.iif = LOAD(u32, p.skb, K_SKB_IIF);
    if (!p.local_in) {
        u64 out = LOAD(u64, p.state, K_STATE_OUT);
        p.oif = LOAD(u32, out, K_DEV_IFINDEX);
    }
    p.network = LOAD(u64, p.skb, K_SKB_HEAD) + LOAD(u16, p.skb, K_SKB_NETWORK_HEADER);
    p.linear = LOAD(u32, p.skb, K_SKB_LEN) - LOAD(u32, p.skb, K_SKB_DATA_LEN);
    read_kernel(p.header, sizeof(p.header), (void *)p.network);
    account(&p, *(volatile u32 *)&settings->epoch & 1, settings->tunnels != 0);
    return NF_ACCEPT;
}
