# SPDX-License-Identifier: Apache-2.0
"""Opens the client of an object store: `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `abfss://CONTAINER@ACCOUNT.../PATH`.

Credentials are those of the provider's own chain and never in a setting. For S3 botocore finds them, as it does for
every AWS tool in Python: variables, the profile (also with SSO or a role), web identity (IRSA), the container's, the
instance's. For the others obstore does: variables, the key file, workload identity, the metadata server.
"""

import logging
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote

import pyarrow as pa
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store, from_url
from pyarrow import fs

from common.input.locations import check_location
from sinks.flowlog.stores.objects import StoreError, explained

# One request, with the whole of an object. One that fails is tried again until as much time has passed.
REQUEST_SECONDS = 60
_RETRY: dict[str, Any] = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=REQUEST_SECONDS),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=10), "base": 2},
}
# Files of credentials change under a process that runs for months.
_CREDENTIALS_SECONDS = 300


@dataclass(frozen=True, slots=True)
class _Place:
    """A path of an object store. `end_point` and `region`: of S3, the first empty for Amazon's own."""

    url: str
    scheme: str
    bucket: str
    path: str
    end_point: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True)
class S3Access:
    """How a bucket is reached, as it is now; `end_point` is empty for Amazon's own, `token` where there is none."""

    end_point: str
    region: str
    key_id: str
    secret: str = field(repr=False)
    token: str = field(repr=False)


def s3_access(location: str) -> S3Access:
    """Return how other clients reach an `s3://` location; raises as `open_client`."""
    return _access(_place(location))


def _access(place: _Place) -> S3Access:
    keys = aws_credentials()
    return S3Access(
        place.end_point, place.region, keys["access_key_id"], keys["secret_access_key"], keys["token"] or ""
    )


def open_client(location: str) -> ObjectStore:
    """Return a client of what is below that path; raise `ValueError` for what is not a place, or `StoreError`.

    Nothing is asked of the store itself but an S3 bucket's region.
    """
    place = _place(location)
    client: dict[str, Any] = {"timeout": timedelta(seconds=REQUEST_SECONDS), "connect_timeout": timedelta(seconds=5)}
    arguments: dict[str, Any] = {"retry_config": _RETRY, "client_options": client}
    if place.scheme == "s3":
        aws_credentials()  # what is missing is said before the first request, and in plain words
        arguments["credential_provider"] = aws_credentials
        arguments["config"] = {"region": place.region} | ({"endpoint": place.end_point} if place.end_point else {})
        client["allow_http"] = place.end_point.startswith("http://")
    try:
        opened = from_url(place.url, **arguments)
    except (BaseError, OSError, ValueError) as error:
        raise explained(error, lasting=True) from None
    assert isinstance(opened, S3Store | GCSStore | AzureStore)
    # A "#", dots and spaces at the end mean something else in a URI, and would lead to another path, perhaps of others.
    if (opened.prefix or "") != unquote(place.path).strip("/"):
        raise ValueError(f"its path would be {opened.prefix or ''!r}; expected one that no URI changes (# is %23)")
    return opened


def open_files(location: str) -> tuple[fs.FileSystem, str]:
    """Return the same place as a file system of pyarrow's, to read Parquet from, and the path in it; raises as that.

    Not by the same client: DuckDB asks pyarrow for rows with Python's lock held, and would wait forever for files that
    are read in Python.
    """
    place = _place(location)
    try:
        if place.scheme != "s3":
            files, root = fs.FileSystem.from_uri(place.url)
            return files, str(root).rstrip("/")
        access = _access(place)
        scheme, _, host = place.end_point.rpartition("://")
        files = fs.S3FileSystem(
            access_key=access.key_id,
            secret_key=access.secret,
            session_token=access.token or None,
            region=place.region,
            scheme=scheme or "https",
            endpoint_override=host.rstrip("/") or None,
            connect_timeout=5,
            request_timeout=REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_RETRY["max_retries"]),
        )
    except (pa.ArrowException, OSError) as error:
        raise StoreError(" ".join(str(error).split())[:200], lasting=True) from error
    return files, f"{place.bucket}/{place.path}".rstrip("/")


def _place(location: str) -> _Place:
    check_location(location)
    scheme, _, rest = location.partition("://")
    url, _, query = location.partition("?")
    if scheme not in ("s3", "gs", "abfs", "abfss"):
        raise ValueError("expected a directory or a URI such as s3://bucket/path (also gs://, abfss://)")
    bucket, _, path = rest.partition("?")[0].partition("/")
    if not bucket:
        raise ValueError("names no bucket; expected, for example, s3://BUCKET/PATH")
    if scheme != "s3":
        return _Place(url, scheme, bucket, path)
    options = dict(parse_qsl(query))
    end_point = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if host := options.get("endpoint_override"):
        end_point = f"{options.get('scheme', 'https')}://{host}"
    return _Place(url, scheme, bucket, unquote(path), end_point, options.get("region") or _region(bucket, end_point))


def _region(bucket: str, end_point: str) -> str:
    known = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if end_point:
        return known or "us-east-1"
    try:
        return str(fs.resolve_s3_region(bucket))
    except OSError as error:
        if known:
            return known
        raise StoreError(f"{' '.join(str(error).split())[:200]}; or name it: s3://...?region=REGION") from None


def aws_credentials() -> dict[str, Any]:
    """Return what botocore finds now; raise `StoreError` if that is nothing. Files are read again each time."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    # It says each time where it found them.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        found = botocore.session.Session().get_credentials()
        keys = found and found.get_frozen_credentials()
    except BotoCoreError as error:
        raise StoreError(f"AWS credentials: {' '.join(str(error).split())[:200]}") from error
    if not keys:
        raise StoreError("no AWS credentials are where AWS's tools look for them", lasting=True)
    return {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret_key,
        "token": keys.token,
        "expires_at": datetime.now(UTC) + timedelta(seconds=_CREDENTIALS_SECONDS),
    }
