# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API's envelopes and query parameters: lists, watch events, pages' tokens, Status. Pure.

Texts and codes are kube-apiserver's (apimachinery/pkg/api/errors, apiserver/pkg/storage/continue.go).
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from lab.kube.store import RESOURCES, Key, Object, Page

# Whether an encoded object is among those that are asked for.
Chosen = Callable[[bytes], bool]

_INCONSISTENT = -1  # the version in a token that goes on from now instead of from its snapshot
_CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
    "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
    "modified, or deleted between the time the first chunk was returned and now may show up in the list."
)


class ApiError(Exception):
    """An answer that is a Status."""

    def __init__(self, code: int, reason: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.body = status_object(code, reason, message, **fields)
        self.headers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list asks for. `version` None: now; `at_least`: now, but not before this version; `limit` 0: all."""

    version: int | None = None
    at_least: int = 0
    after: Key | None = None
    limit: int = 0


def parse_list(query: Mapping[str, str]) -> ListQuery:
    """Read a list's parameters; raises `ApiError`.

    Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions-in-metadata
    """
    limit, version, match = _limit(query), query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    if query.get("continue"):
        if version not in ("", "0"):
            raise ApiError(400, "BadRequest", "specifying resource version is not allowed when using continue")
        at, after = _parse_continue(query["continue"])
        return ListQuery(version=None if at == _INCONSISTENT else at, after=after, limit=limit)
    if match and not version:
        raise ApiError(422, "Invalid", "resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match not in ("", "Exact", "NotOlderThan") or (match == "Exact" and version == "0"):
        raise ApiError(422, "Invalid", f"resourceVersionMatch: {match!r} with resourceVersion {version!r}")
    if not version:
        return ListQuery(limit=limit)
    if version == "0":
        return ListQuery()  # from the watch cache, which knows no limit
    number = resource_version(version)
    if match == "Exact" or (not match and limit):
        return ListQuery(version=number, limit=limit)
    return ListQuery(at_least=number, limit=limit)


def chosen(namespace: str | None, field_selector: str) -> Chosen:
    """Return whether an encoded object is asked for; raises `ApiError` for what the lab's API does not know."""
    name = field_selector.removeprefix("metadata.name=")
    if field_selector and (name == field_selector or "," in name):
        raise ApiError(400, "BadRequest", f"the lab's API does not know fieldSelector={field_selector}")

    def is_chosen(encoded: bytes) -> bool:
        if not name and namespace is None:
            return True
        meta = orjson.loads(encoded)["metadata"]
        return namespace in (None, meta.get("namespace")) and name in ("", meta["name"])

    return is_chosen


def resource_version(text: str) -> int:
    """Read a resourceVersion, "" as 0; raises `ApiError`."""
    if not text:
        return 0
    if not text.isdecimal():
        raise ApiError(400, "BadRequest", f'resourceVersion: Invalid value: "{text}": invalid resource version')
    return int(text)


def continue_token(page: Page, version: int | None = None) -> str:
    """Return the token of the next page, from the same snapshot or from another version."""
    assert page.next_after is not None
    return _token(page.version if version is None else version, page.next_after)


def gone(message: str, query: ListQuery, now: int) -> ApiError:
    """Return the 410 of a list, with a token to go on inconsistently where it was a further page."""
    if query.after is None:
        return ApiError(410, "Expired", message)
    metadata = {"continue": _token(_INCONSISTENT, query.after), "resourceVersion": str(now)}
    return ApiError(410, "Expired", _CONTINUE_EXPIRED, metadata=metadata)


def too_large(message: str) -> ApiError:
    """Return the 504 for a version that does not exist yet."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    error = ApiError(504, "Timeout", message, details={"causes": causes, "retryAfterSeconds": 1})
    error.headers["Retry-After"] = "1"
    return error


def status_object(code: int, reason: str, message: str, **fields: Any) -> dict[str, Any]:
    """Return a Failure Status."""
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return head | {"message": message, "reason": reason, "code": code} | fields


def _group(resource: str) -> str:
    return "discovery.k8s.io/v1" if resource == "endpointslices" else "v1"


def list_answer(resource: str, page: Page, token: str | None) -> bytes:
    """Encode a list."""
    metadata: dict[str, Any] = {"resourceVersion": str(page.version)}
    if token:
        metadata |= {"continue": token, "remainingItemCount": page.remaining}
    head = {"kind": f"{RESOURCES[resource]}List", "apiVersion": _group(resource), "metadata": metadata}
    return orjson.dumps(head)[:-1] + b',"items":[' + b",".join(page.items) + b"]}"


def event(kind: str, body: bytes | Object, resource: str = "") -> bytes:
    """Encode a line of a watch; an encoded object of a resource gets its `kind` and `apiVersion`."""
    if isinstance(body, bytes):
        head = (RESOURCES[resource].encode(), _group(resource).encode())
        body = b'{"kind":"%s","apiVersion":"%s",%s' % (*head, body[1:])
    else:
        body = orjson.dumps(body)
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), body)


def bookmark(resource: str, version: int, annotations: dict[str, str] | None = None) -> bytes:
    """Encode a bookmark: the watch has seen everything up to this version."""
    metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    spec = {"containers": None} if resource == "pods" else {}
    head = {"kind": RESOURCES[resource], "apiVersion": _group(resource), "metadata": metadata}
    return event("BOOKMARK", head | {"spec": spec, "status": {}})


def initial_events_end(resource: str, version: int) -> bytes:
    """Encode the bookmark that ends a streaming list (KEP-3157)."""
    return bookmark(resource, version, {"k8s.io/initial-events-end": "true"})


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit") or "0"
    if not text.isdecimal():
        raise ApiError(400, "BadRequest", f'limit: Invalid value: "{text}"')
    return int(text)


def _token(version: int, after: Key) -> str:
    token = {"v": "meta.k8s.io/v1", "rv": version, "start": "/".join(after)}
    return base64.urlsafe_b64encode(orjson.dumps(token)).decode().rstrip("=")


def _parse_continue(token: str) -> tuple[int, Key]:
    try:
        decoded = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = decoded["start"].partition("/")
        return int(decoded["rv"]), (namespace, name)
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApiError(400, "BadRequest", f"continue key is not valid: {error}") from error
