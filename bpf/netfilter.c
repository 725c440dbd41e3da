// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Count what passes netfilter's POST_ROUTING and LOCAL_IN, per flow, into the map of the current epoch.
//
// It stands in slot 0 of the program array that dispatcher.c tail-calls.  The verdict is always NF_ACCEPT.
#include "netfilter.h"

// state and skb are BTF pointers to the verifier: fields by direct loads.
#define LOAD(type, base, offset) (*(type *)((base) + (offset)))

#include "account.h"

#define NF_INET_LOCAL_IN 1
#define NFPROTO_IPV4 2
#define LOOPBACK_IFINDEX 1 // include/net/flow.h: the same in every network namespace
#define PACKET_LOOPBACK 5  // include/uapi/linux/if_packet.h
#define ESP 50
#define NAT_TRAVERSAL 4500
#define IPSKB_XFRM_TRANSFORMED 4  // include/net/ip.h
#define IP6SKB_XFRM_TRANSFORMED 1 // include/linux/ipv6.h
#define NEIGHBOUR_DISCOVERY 133   // RFC 4861: ICMPv6 types from here, which have no extension headers
#define NEIGHBOUR_DISCOVERY_LAST 137
#define RTCF_BROADCAST_OR_MULTICAST 0x30000000

static __always_inline long read_packet(struct packet *p, void *to, u32 bytes, u32 offset) {
    return read_kernel(to, bytes, (void *)(p->network + offset));
}

// The copy of a multicast or broadcast packet that the kernel loops back to this node's own listeners.  At LOCAL_IN it
// says so itself; at POST_ROUTING it is a clone and has lost its socket (ip_mc_output(), ip6_finish_output2()).
static __always_inline bool is_looped_back(struct packet *p, const struct flow_key *key) {
    u8 type = LOAD(u8, p->skb, K_SKB_PKT_TYPE) >> K_SKB_PKT_TYPE_SHIFT & 7;
    u64 dst;
    if (p->local_in)
        return type == PACKET_LOOPBACK;
    if (!LOAD(u64, p->state, K_STATE_SK) || LOAD(u64, p->skb, K_SKB_SK) ||
        LOAD(u8, p->skb, K_SKB_ENCAPSULATION) & K_SKB_ENCAPSULATION_MASK)
        return false;
    if (!p->ipv4)
        return key->dst[0] == 0xff;
    dst = LOAD(u64, p->skb, K_SKB_REFDST) & SKB_DST_PTRMASK;
    return READ(u32, dst + K_RTABLE_FLAGS) & RTCF_BROADCAST_OR_MULTICAST;
}

// A copy that nft's dup or iptables' TEE sends to somebody else: from the sender, to the receiver of the original,
// which it does not go to (nf_dup_ipv4(), nf_dup_ipv6()).  Copies are untracked, as little else is; and while one is
// sent, the task that is interrupted says so, from Linux 6.16 on: also of the question for the copy's next hop.
static __always_inline bool is_copy(struct packet *p, const struct flow_key *key) {
#if defined(K_TASK_IN_NF_DUPLICATE) && defined(K_SKB_NFCT)
    u8 type = p->header[40]; // if it is neighbour discovery, which has no extension headers
    if (p->local_in || LOAD(u64, p->skb, K_SKB_NFCT) != IP_CT_UNTRACKED)
        return false;
    if (key->protocol == ICMPV6 && type >= NEIGHBOUR_DISCOVERY && type <= NEIGHBOUR_DISCOVERY_LAST)
        return false;
    return READ(u8, bpf_get_current_task() + K_TASK_IN_NF_DUPLICATE) & K_TASK_IN_NF_DUPLICATE_MASK;
#else
    return false;
#endif
}

// What a device of IPsec (xfrm, vti) hands on to be encrypted has passed this hook on its way to that device.  Now it
// comes from nowhere, as from the device that it will leave by (xfrmi_xmit2(), vti_xmit()).  What policies encrypt
// without such a device passes once: it comes from a device or a socket.
static __always_inline bool is_second_pass(struct packet *p) {
#ifdef K_DST_XFRM
    u64 in = LOAD(u64, p->state, K_STATE_IN), dst = LOAD(u64, p->skb, K_SKB_REFDST) & SKB_DST_PTRMASK;
    if (p->local_in || p->iif || LOAD(u32, in, K_DEV_IFINDEX) != p->oif)
        return false;
    return READ(u64, dst + K_DST_XFRM) != 0;
#else
    return false;
#endif
}

// What a bridge forwards has the bridge as its output device, which may be an uplink, and a port as the device that it
// goes to, which may lead to a pod (br_nf_post_routing()).
static __always_inline u32 way_out(struct packet *p) {
    u64 device = LOAD(u64, p->skb, K_SKB_DEV);
    return LOAD(u32, device, K_DEV_IFINDEX);
}

static __always_inline int aside_of(struct packet *p, const struct flow_key *key) {
    if ((p->local_in ? p->iif : p->oif) == LOOPBACK_IFINDEX)
        return COUNTER_ASIDE_LOOPBACK;
    if (is_looped_back(p, key))
        return COUNTER_ASIDE_LOOPED_BACK;
    if (is_copy(p, key))
        return COUNTER_ASIDE_COPIED;
    if (is_second_pass(p))
        return COUNTER_ASIDE_SECOND_PASS;
    return -1;
}

// What defragmentation left in the control block (struct inet_skb_parm, inet6_skb_parm).  Byte by byte: the verifier
// knows it as an array of bytes.
static __always_inline u16 largest_fragment(struct packet *p) {
    u8 low = p->ipv4 ? LOAD(u8, p->skb, K_CB_INET_FRAGMENT) : LOAD(u8, p->skb, K_CB_INET6_FRAGMENT);
    u8 high = p->ipv4 ? LOAD(u8, p->skb, K_CB_INET_FRAGMENT + 1) : LOAD(u8, p->skb, K_CB_INET6_FRAGMENT + 1);
    return (u16)high << 8 | low;
}

// The node's IPsec goes in UDP by NAT traversal's port, so what comes to that port does, too (RFC 3948).  The
// collector, which knows of no policies, forgets that with the next change of devices; the next packet brings it back.
static __always_inline void learn_nat_traversal(void) {
    struct tunnel_key tunnel = {.protocol = UDP, .port = NAT_TRAVERSAL, .local = 1};
    u8 esp = ENCAPSULATION_ESP;
    u32 zero = 0;
    struct control *settings = control.lookup(&zero);
    if (!tunnels.lookup(&tunnel))
        tunnels.update(&tunnel, &esp);
    if (settings && !settings->tunnels)
        settings->tunnels = 1;
}

// Of a packet that it made xfrm says so (xfrm_output() in net/xfrm/xfrm_output.c); what it made it of passed this hook
// before.  What comes in nobody has looked at yet: ESP that ends here is unpacked here, and is seen again.
static __always_inline bool is_outside_of_ipsec(struct packet *p, const struct flow_key *key) {
    u8 flags = p->ipv4 ? LOAD(u8, p->skb, K_CB_INET_FLAGS) : LOAD(u8, p->skb, K_CB_INET6_FLAGS);
    if (p->local_in)
        return key->protocol == ESP;
    if (!(flags & (p->ipv4 ? IPSKB_XFRM_TRANSFORMED : IP6SKB_XFRM_TRANSFORMED)))
        return false;
    if (key->protocol == UDP && key->src_port == NAT_TRAVERSAL)
        learn_nat_traversal();
    return true;
}

int flows(struct nf_ctx *ctx) {
    u8 header[HEADER_BYTES] __attribute__((aligned(8)));
    struct packet p = {.skb = ctx->skb, .state = ctx->state, .header = header, .maybe_gso = 1};
    u32 zero = 0;
    struct control *settings = control.lookup(&zero);
    if (!settings || is_stopped())
        return NF_ACCEPT;
    p.local_in = LOAD(u8, p.state, K_STATE_HOOK) == NF_INET_LOCAL_IN;
    p.nat_done = p.local_in;
    p.ipv4 = LOAD(u8, p.state, K_STATE_PF) == NFPROTO_IPV4;
    p.iif = LOAD(u32, p.skb, K_SKB_IIF);
    if (!p.local_in) {
        u64 out = LOAD(u64, p.state, K_STATE_OUT);
        p.oif = LOAD(u32, out, K_DEV_IFINDEX);
        p.mtu = LOAD(u32, out, K_DEV_MTU);
    }
    p.largest = largest_fragment(&p);
    p.network = LOAD(u64, p.skb, K_SKB_HEAD) + LOAD(u16, p.skb, K_SKB_NETWORK_HEADER);
    p.length = LOAD(u32, p.skb, K_SKB_LEN);
    p.linear = p.length - LOAD(u32, p.skb, K_SKB_DATA_LEN);
    read_header(&p);
    account(&p, *(volatile u32 *)&settings->epoch & 1, settings->tunnels != 0);
    return NF_ACCEPT;
}
