// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Reading the kernel's memory.  Offsets of its structs (K_*) come from its BTF as -D flags, because bcc has no CO-RE.
#pragma once

#define __always_inline inline __attribute__((always_inline))

// By number: bcc turns the helper's name into bpf_probe_read where it cannot look into /proc/kallsyms (CAP_SYSLOG), and
// a netfilter program may not call that one.
static long (*read_kernel)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_kernel;

// What skb->head points into: by direct loads where the verifier takes them (DIRECT_LOADS, Linux 6.17: memory that it
// does not trust may be read, a fault reads 0), else by read_kernel, 8 ns a call and more for many bytes.

static __always_inline u16 be16(const u8 *at) { return (u16)at[0] << 8 | at[1]; }
