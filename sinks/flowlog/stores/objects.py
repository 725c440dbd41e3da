# SPDX-License-Identifier: Apache-2.0
"""An object store as a place for files. Where it is and with which credentials: `object_client`.

An object is there whole or not at all. Up to 64 MiB it is one PUT; only beyond that, as after a compaction, it is an
upload in parts, of which a killed process leaves some behind. `create` asks the store to refuse
what exists (If-None-Match: *), which is atomic between processes in S3, Google Cloud Storage and Azure. What fails is
tried again for a minute; what is left of that is a `StoreError` of one line.
"""

import contextlib
import errno
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
from obstore.store import ObjectStore as Client

from sinks.flowlog.stores.store import MAX_MANIFEST_BYTES, Parts

T = TypeVar("T")

# Of what a store answers, only this is repeated: the rest of it may hold signatures, and a URL a token.
_CODE, _MESSAGE = re.compile(r"<Code>([^<]{1,100})</Code>"), re.compile(r"<Message>([^<]{1,300})</Message>")
_STATUS = re.compile(r"status code: (\d{3} ?[A-Za-z ]*)")
_KIND = re.compile(r"kind: (Connect|Timeout|Interrupted|Decode|Request)\b")
_CUT = "the connection was cut"
_KINDS = {
    "Connect": "cannot connect",
    "Timeout": "no answer in time",
    "Interrupted": _CUT,
    "Decode": _CUT,
    "Request": _CUT,
}
# What obstore says before what our own provider of credentials raised.
_WRAPPED = re.compile(r".* credential provider: (\w+: )?")
# Client errors that pass: time-out, conflict, too early, too many requests.
_PASSING = ("408", "409", "425", "429")
# And what does once there are new credentials, or the request is made again.
_PASSING_CODES = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestTimeout")
_CUT_PAGES = 3
# Fewer paths of one than this are listed by a request each at least; more, such as most hours of a day, with all else
# that is there.
_LISTED_ALONE = 12
_ONE_PUT_BYTES, _PART_BYTES = 64 << 20, 16 << 20
_NOT_THERE = ("NoSuchKey", "BlobNotFound", "NotFound", "")


class StoreError(OSError):
    """An object store did not do what was asked. `lasting`: it will not until somebody changes something."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(errno.EIO, reason)
        self.lasting = lasting

    def __str__(self) -> str:
        return str(self.strerror)


class CutOffError(StoreError):
    """The answer ended before its end."""


class ObjectStore:
    """What is below one path of an object store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._creates = True

    def probe(self) -> bool:
        """Try whether it can be written to, and return whether `create` is exclusive; raises `StoreError`."""
        path = f".probe.{secrets.token_hex(8)}"
        try:
            # The first may say that it is there already: its answer was lost, and it was tried again.
            self.create(path, [b""])
            self._creates = not self.create(path, [b""])
        except StoreError:
            # Not every server that speaks S3 knows the condition: if it takes the object without, it is that.
            self.put(path, [b""])
            self._creates = False
        self.delete(path)
        return self._creates

    def put(self, path: str, parts: Parts) -> int:
        """Write an object; it appears when it is whole."""
        views = [memoryview(part).cast("B") for part in parts]
        size = sum(view.nbytes for view in views)
        with _answers():
            if size <= _ONE_PUT_BYTES:
                obstore.put(self._client, path, b"".join(views), use_multipart=False)
            else:
                obstore.put(self._client, path, iter(views), chunk_size=_PART_BYTES, max_concurrency=4)
        return size

    def create(self, path: str, parts: Parts) -> bool:
        """Write an object unless there is one."""
        if not self._creates and self.exists(path):
            return False
        mode: Literal["create", "overwrite"] = "create" if self._creates else "overwrite"
        try:
            with _answers():
                obstore.put(self._client, path, b"".join(parts), mode=mode, use_multipart=False)
        except FileExistsError:
            return False
        return True

    def read(self, path: str) -> bytes:
        """Return a manifest's content, or an intent's; raise ValueError for what is larger than any."""
        with _answers():
            found = obstore.get(self._client, path)
            if found.meta["size"] > MAX_MANIFEST_BYTES:
                raise ValueError(f"it is larger than {MAX_MANIFEST_BYTES:,} bytes")
            return bytes(found.bytes())

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return a part of an object that is within it."""
        with _answers():
            return bytes(obstore.get_range(self._client, path, start=start, length=length))

    def size(self, path: str) -> int:
        """Return an object's size in bytes."""
        with _answers():
            return int(obstore.head(self._client, path)["size"])

    def exists(self, path: str) -> bool:
        """Return whether there is such an object, by its name and not by a listing."""
        try:
            self.size(path)
        except FileNotFoundError:
            return False
        return True

    def names(self, directory: str) -> list[str]:
        """Return the names below a path."""
        found = _whole(lambda: obstore.list_with_delimiter(self._client, directory or None))
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return [path.rpartition("/")[2] for path in paths]

    def names_in(self, directory: str, below: Sequence[str]) -> list[list[str]]:
        """Return the names below each of these paths of a path: of a thousand objects, by one request."""
        if len(below) < _LISTED_ALONE:
            return [self.names(f"{directory}/{name}") for name in below]
        return _whole(lambda: self._names_in(directory, below))

    def _names_in(self, directory: str, below: Sequence[str]) -> list[list[str]]:
        found: dict[str, dict[str, None]] = {name: {} for name in below}
        for page in obstore.list(self._client, directory):
            for each in page:
                above, _, rest = each["path"].removeprefix(f"{directory}/").partition("/")
                if above in found:
                    found[above][rest.partition("/")[0]] = None
        return [[*found[name]] for name in below]

    def delete(self, path: str) -> None:
        """Delete an object, if it is there."""
        with contextlib.suppress(FileNotFoundError), _answers():
            obstore.delete(self._client, path)


def _whole(ask: Callable[[], T]) -> T:
    """List; a page that was cut off is asked for again, which the client does with other answers by itself."""
    for _ in range(_CUT_PAGES):
        with contextlib.suppress(CutOffError), _answers():
            return ask()
    with _answers():
        return ask()


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """Turn what obstore raises into `FileNotFoundError`, `FileExistsError` or a `StoreError` of one line."""
    try:
        yield
    except AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "exists already") from None
    except (BaseError, OSError) as error:
        raise explained(error) from None


def explained(error: Exception, *, lasting: bool = False) -> OSError:
    """Return what to raise for what obstore raised; `lasting` if it is in any case."""
    text = str(error)
    code, message, status = _CODE.search(text), _MESSAGE.search(text), _STATUS.search(text)
    if isinstance(error, FileNotFoundError) and (code[1] if code else "") in _NOT_THERE:
        return FileNotFoundError(errno.ENOENT, "does not exist")
    if code:
        reason = f"{code[1]}: {message[1]}" if message else code[1]
    elif status:
        reason = f"HTTP {status[1].strip()}"
    elif kind := _KIND.search(text):
        reason = _KINDS[kind[1]]
    else:
        first = _WRAPPED.sub("", text.partition("\n")[0])
        reason = " ".join(re.sub(r"\?\S*", "", first).split())[:300]
    passes = status is not None and (status[1].startswith(_PASSING) or (code is not None and code[1] in _PASSING_CODES))
    refused = status is not None and status[1].startswith("4") and not passes
    if reason == _CUT:
        return CutOffError(reason)
    return StoreError(reason, lasting=lasting or refused or isinstance(error, NotSupportedError))
