// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What a netfilter program is called with, and what it answers.
#pragma once

#define NF_ACCEPT 1 // include/uapi/linux/netfilter.h

// struct bpf_nf_ctx: pointers to nf_hook_state and sk_buff.
struct nf_ctx {
    u64 state;
    u64 skb;
};
