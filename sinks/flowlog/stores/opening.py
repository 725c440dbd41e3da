# SPDX-License-Identifier: Apache-2.0
"""Opens the place that `--output` names, to write to it."""

import errno
import logging
import secrets
from pathlib import Path
from urllib.parse import unquote

from common.errors import Refusal
from common.input.files import owners_in, warn_if_others_write
from common.input.locations import without_secrets
from sinks.flowlog.stores.object_client import open_client
from sinks.flowlog.stores.objects import ObjectStore, StoreError
from sinks.flowlog.stores.store import LocalStore, Store

log = logging.getLogger(__name__)

# These may pass; whatever else is wrong with a directory at the start, a person must mend.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


def local_path(location: str) -> Path | None:
    """Return the directory that a location names, or None if it is in an object store."""
    if "://" not in location:
        return Path(location)
    return Path(unquote(location.removeprefix("file://"))) if location.startswith("file:///") else None


def open_store(output: str) -> Store:
    """Return the store that `output` names; raise `Refusal` if it cannot be written to, `StoreError` if not now."""
    if path := local_path(output):
        return _open_local(path, output)
    try:
        store = ObjectStore(open_client(output))
        exclusive = store.probe()
    except ValueError as error:
        raise Refusal(f"output = {without_secrets(output)!r}: {error}") from error
    except StoreError as error:
        if not error.lasting:
            raise
        raise Refusal(
            f"output = {output!r}: {error}; expected a path in an object store that can be written to"
        ) from error
    if not exclusive:
        log.warning(
            "output = %r: the object store replaces an object that was to be created only (it lacks If-None-Match), so "
            "only the consumer group keeps two flow logs from writing one partition; see docs/archive.md",
            output,
        )
    return store


def _open_local(root: Path, output: str) -> LocalStore:
    store = LocalStore(root)
    probe = f".probe.{secrets.token_hex(4)}"
    try:
        store.put(probe, [b""])
        store.delete(probe)
        owners = owners_in(root)
        warn_if_others_write("output", root, owners)
        return LocalStore(root, owners)
    except OSError as error:
        if error.errno not in _PASSING:
            raise Refusal(f"output = {output!r}: {error.strerror}; expected a directory to write to") from error
    return LocalStore(root, owners_in(root))
