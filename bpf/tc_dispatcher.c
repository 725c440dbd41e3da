// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// As dispatcher.c, for tc: what is attached to the uplinks, egress and ingress.  A program array takes programs of one
// type only, so this one has its own.
#include "tc.h"

// Slot 0: the program that counts.  Empty: packets pass uncounted.
BPF_TABLE_PINNED("prog", u32, u32, dispatch, 1, PIN_ROOT "/dispatch_tc");

int dispatcher(struct __sk_buff *ctx) {
    dispatch.call(ctx, 0);
    return NEXT;
}
