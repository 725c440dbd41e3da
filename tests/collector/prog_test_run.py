# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN of a netfilter program: one packet through it, with no device and no traffic.

What the kernel builds for it (bpf_prog_test_run_nf(), net/bpf/test_run.c): a packet in one piece that came in over no
device and goes out over loopback. So at POST_ROUTING our program puts it aside as loopback, after it has parsed and
measured it; at LOCAL_IN it takes the whole way to the map. The packet has to have an Ethernet header, at most a page,
and at least an IP header's length.
"""

import ctypes
import struct

from collector import bpf_syscall as sys_bpf

PROG_TEST_RUN = 10  # enum bpf_cmd
NF_ACCEPT = 1
LOCAL_IN, POST_ROUTING = 1, 4
NFPROTO = {4: 2, 6: 10}
ETHERTYPE = {4: 0x0800, 6: 0x86DD}
SMALLEST = {4: 20, 6: 40}
LARGEST = 3000  # of what is left of a page


def run(program: int, version: int, hook: int, packet: bytes, repeat: int = 1) -> int:
    """Return the verdict on an IP packet (from the IP header on) in the words of the family of `version`."""
    data = ctypes.create_string_buffer(bytes(12) + struct.pack("!H", ETHERTYPE[version]) + packet, 14 + len(packet))
    state = ctypes.create_string_buffer(struct.pack("=BB46x", hook, NFPROTO[version]), 48)  # struct nf_hook_state
    attributes = struct.pack(
        "=IIIIQQIIIIQQIII",
        program,
        0,
        len(data),
        0,
        ctypes.addressof(data),
        0,
        repeat,
        0,
        len(state),
        0,
        ctypes.addressof(state),
        0,
        0,
        0,
        0,
    )
    buffer = ctypes.create_string_buffer(attributes, 160)
    sys_bpf._call(PROG_TEST_RUN, buffer)  # type: ignore[arg-type]
    return int(struct.unpack_from("=I", buffer.raw, 4)[0])
