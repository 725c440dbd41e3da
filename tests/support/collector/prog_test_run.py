# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN of a netfilter program or a classifier: one packet through it, with no device and no traffic.

A classifier (bpf_prog_test_run_skb()) is given a frame at the way out of loopback, and gives it back.

What the kernel builds for a netfilter program (bpf_prog_test_run_nf(), net/bpf/test_run.c): a packet in one piece that
came in over no device and goes out over loopback. So at POST_ROUTING our program puts it aside as loopback, after it
has parsed and measured it; at LOCAL_IN it takes the whole way to the map. The packet has to have an Ethernet header, at
most a page, and at least an IP header's length.
"""

import ctypes
import struct

from collector.kernel import bpf_syscall as sys_bpf

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
    return _run(program, data, state=state, repeat=repeat)


def run_classifier(program: int, version: int, packet: bytes) -> tuple[int, bytes]:
    """Return the verdict on an IP packet and what the program left of it."""
    data = ctypes.create_string_buffer(bytes(12) + struct.pack("!H", ETHERTYPE[version]) + packet, 14 + len(packet))
    out = ctypes.create_string_buffer(len(data))
    verdict = _run(program, data, out=out)
    return struct.unpack("=i", struct.pack("=I", verdict))[0], out.raw[14:]


Buffer = ctypes.Array[ctypes.c_char]


def _run(program: int, data: Buffer, *, out: Buffer | None = None, state: Buffer | None = None, repeat: int = 1) -> int:
    attributes = struct.pack(
        "=IIIIQQIIIIQQIII",
        program,
        0,
        len(data),
        0 if out is None else len(out),
        ctypes.addressof(data),
        0 if out is None else ctypes.addressof(out),
        repeat,
        0,
        0 if state is None else len(state),
        0,
        0 if state is None else ctypes.addressof(state),
        0,
        0,
        0,
        0,
    )
    buffer = ctypes.create_string_buffer(attributes, 160)
    sys_bpf._call(PROG_TEST_RUN, buffer)  # type: ignore[arg-type]
    return int(struct.unpack_from("=I", buffer.raw, 4)[0])
