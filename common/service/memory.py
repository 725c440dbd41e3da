# SPDX-License-Identifier: Apache-2.0
"""How glibc gives memory back, so that a service holds what it uses and no more (mallopt(3), malloc_trim(3)).

Other libraries have neither; then nothing is changed.
"""

import ctypes

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 256 * 1024


def use_one_arena() -> None:
    """Let all threads allocate from one heap.

    glibc gives up to eight heaps a CPU to threads that meet, and each keeps what is free between its blocks. Our
    threads rarely meet there: the interpreter lets one run at a time.
    """
    _mallopt(_M_ARENA_MAX, 1)


def map_large_blocks() -> None:
    """Let glibc map every large block by itself, for good: a freed one leaves nothing behind.

    It begins so, but after the first large block is freed it takes those of up to 32 MB from its heaps, which shrink
    only at their ends: after windows of 100,000 flows 25 MB more stayed in a collector.
    """
    _mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def trim() -> None:
    """Give whole pages that are free within the heap back to the kernel.

    Of itself glibc only shrinks its end: what lies between blocks that are in use grows for hours, by 1 to 2 MB an
    hour in the sinks.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)
