// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Reading the kernel's memory.  Offsets of its structs (K_*) come from its BTF as -D flags, because bcc has no CO-RE.
#pragma once

#define __always_inline inline __attribute__((always_inline))

// By number: bcc turns the helper's name into bpf_probe_read where it cannot look into /proc/kallsyms (CAP_SYSLOG), and
// a netfilter program may not call that one.
static long (*read_kernel)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_kernel;

// What lies at an address: by direct loads where the kernel lets a program say of what type it is (DIRECT_LOADS, Linux
// 6.2: a fault reads 0), else by read_kernel, 8 to 40 ns a call by the kind of CPU.

// What lies at an address that is but a number to the verifier; 0 if it cannot be read.
#ifdef DIRECT_LOADS
// bpf_rdonly_cast() of kernel/bpf/helpers.c.  It costs nothing, the verifier puts a move in its place.  A kfunc, known
// by its BTF id: bcc has no word for that, so the loader marks the calls of this number.  Bytes are cast to K_WORDS, a
// struct of 25 words: its type 0, bytes as such, came with Linux 6.17 only.
static u64 (*untrusted)(u64 address, u32 type) = (void *)K_RDONLY_CAST;
#define READ(type, address) (*(type *)untrusted(address, K_WORDS))
#else
#define READ(type, address)                                                                                            \
    ({                                                                                                                 \
        type value_ = 0;                                                                                               \
        read_kernel(&value_, sizeof(value_), (void *)(address));                                                       \
        value_;                                                                                                        \
    })
#endif

static __always_inline u16 be16(const u8 *at) { return (u16)at[0] << 8 | at[1]; }
