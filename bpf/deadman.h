// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Counting stops when no collector has been there for long: a program that was left behind costs next to nothing then.
#pragma once
#include "maps.h"

// How often the clock is looked at: reading it costs 20 ns, jiffies 1 ns.
#define LOOK_EVERY_JIFFIES 64

// The first packet that finds the deadline past is not counted any more, and what the clock said then is kept.
static __always_inline bool is_stopped(void) {
    u32 zero = 0;
    u64 jiffies = bpf_jiffies64(), now;
    struct deadman *state = deadman.lookup(&zero);
    u64 *until;
    if (!state || state->stopped_ns)
        return true;
    if (jiffies - state->looked < LOOK_EVERY_JIFFIES)
        return false;
    state->looked = jiffies;
    now = bpf_ktime_get_boot_ns();
    until = deadline.lookup(&zero);
    if (!until || !*until || now < *until)
        return false;
    state->stopped_ns = now;
    return true;
}
