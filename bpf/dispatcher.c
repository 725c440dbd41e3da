// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What is attached to the hooks, once and for good: links are never replaced, because two links side by side count a
// packet twice.  It tail-calls the program in slot 0; a new version is one update of that slot.
#include "netfilter.h"

// Slot 0: the program that counts.  Empty: packets pass uncounted.
BPF_TABLE_PINNED("prog", u32, u32, dispatch, 1, PIN_ROOT "/dispatch");

int dispatcher(struct nf_ctx *ctx) {
    dispatch.call(ctx, 0);
    return NF_ACCEPT;
}
