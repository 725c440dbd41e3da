# SPDX-License-Identifier: Apache-2.0
"""What is pinned already: whether it is what a request asks for, and taking it over without a compiler."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from collector.errors import LoadError
from collector.kernel import bpf_source, epoch_record, layout, pins
from collector.kernel.load_request import Answer, Request
from schemas.raw import Hook

PROGRAMS: dict[Hook, str] = {"netfilter": "netfilter.c", "tc": "tc.c"}


def take_over(requests: Sequence[Request]) -> tuple[Hook, Answer]:
    """Return what another process loaded for one of these requests, the youngest, and its hook; raise `LoadError`.

    The kernel is not asked where its fields are: the request names the boot, and with it the kernel.
    """
    root = Path(requests[0].pin_dir)
    check_namespace(root)
    asked = {asked_of(request) for request in requests}
    for generation in reversed(pins.generations(root)):
        meta = pins.read_meta(root, generation)
        if meta is not None and meta.asked in asked and pins.has_dispatcher(root, meta.hook):
            pins.pin_barrier(root)
            return meta.hook, Answer(generation, active=generation == pins.active_generation(root))
    raise LoadError(
        f"load = 'never': nothing pinned at {root} fits this version and these settings; run, with the same settings, "
        "zonemeter run collector --load=only (in Kubernetes delete this pod: its init container does that)"
    )


def asked_of(request: Request) -> str:
    """Return the digest of the request, the sources and the layouts: of all that this version decides itself."""
    return _digest(
        msgspec.json.encode(request),
        repr(sorted(layout.compile_flags().items())).encode(),
        str(epoch_record.LAYOUT_VERSION).encode(),
        repr(epoch_record.RECORD.descr).encode(),
        bpf_source.read(PROGRAMS[request.hook]).encode(),  # the dispatcher stays
    )


def digest_of(request: Request, flags: dict[str, int]) -> str:
    """Return the digest of all that, and of where the kernel keeps its fields."""
    return _digest(asked_of(request).encode(), repr(sorted(flags.items())).encode())


def check_namespace(root: Path) -> None:
    """Raise `LoadError` if what is pinned counts in another network namespace than this process's."""
    pinned = pins.pinned_namespace(root)
    if pinned is not None and pinned != pins.network_namespace():
        raise LoadError(
            f"pin_dir = {str(root)!r}: its links count in another network namespace; give each namespace its own "
            f"--pin-dir, or remove what is left there with zonemeter detach --pin-dir {root}"
        )


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
