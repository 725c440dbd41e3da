# SPDX-License-Identifier: Apache-2.0
"""The loader, but with a flow map of one value per CPU: what `bench.hook` compares the shared one with."""

import sys

from collector.kernel import bpf_source, loader

_SHARED, _PER_CPU = '"hash", struct flow_key', '"percpu_hash", struct flow_key'
_read = bpf_source.read


def _per_cpu(name: str) -> str:
    text = _read(name)
    return text.replace(_SHARED, _PER_CPU)


if __name__ == "__main__":
    bpf_source.read = _per_cpu
    sys.exit(loader.main())
