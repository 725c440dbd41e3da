# SPDX-License-Identifier: Apache-2.0
"""One client of the Kubernetes API server: where it is, who we are, and raw answers with every failure named.

kubernetes_asyncio finds the server and signs the requests; its models are not used: they cost 15 times the
decoding. Its requests have no deadline of their own, and neither has the command that a kubeconfig may name for
credentials; so each of zonemeter's brings one.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec

from common.errors import Refusal
from common.input.files import read_bounded
from enricher.kube.errors import GoneError, KubeError
from schemas.codec import UNREADABLE

Where = Literal["auto", "in-cluster", "kubeconfig"]
_CONNECT_SECONDS = 10.0
# For a cloud's own command, which asks its servers for a token.
CREDENTIALS_SECONDS = 30.0
# What the library raises for YAML of another form, or text that is not UTF-8.
_NOT_KUBECONFIG = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
# What an error's body may take; it is shown in one line.
_MAX_STATUS_BYTES = 64 * 1024


class StatusDetails(msgspec.Struct, rename="camel"):
    """meta/v1 Status.details."""

    retry_after_seconds: int | None = None


class Status(msgspec.Struct):
    """meta/v1 Status: what the API says instead of an answer."""

    message: str | None = None
    code: int | None = None
    details: StatusDetails | None = None

    @property
    def retry_after_seconds(self) -> float | None:
        """How long to wait, if it says so."""
        return None if self.details is None else self.details.retry_after_seconds


class KubeClient:
    """Requests to the API server, one HTTP session for all of them."""

    def __init__(self, where: Where, kubeconfig: Path | None) -> None:
        self._where = where
        self._kubeconfig = kubeconfig
        self._api: Any = None

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    async def open(self) -> None:
        """Read the credentials; raise `Refusal` if there are none that can be used. Does not connect yet."""
        # Imported here: it takes a second and 50 MB, which a static topology need not pay.
        from kubernetes_asyncio.client import ApiClient, Configuration

        configuration = Configuration()
        await self._configure(configuration)
        self._api = ApiClient(configuration)

    async def close(self) -> None:
        """Close the session."""
        if self._api is not None:
            await self._api.close()

    async def reopen(self) -> None:
        """Read the credentials and the authorities again: tokens and certificates rotate."""
        fresh = KubeClient(self._where, self._kubeconfig)
        await fresh.open()
        # In this order, so that one that is cancelled meanwhile leaves no session behind that nobody closes.
        former, self._api = self._api, fresh._api
        if former is not None:
            await former.close()

    async def get(self, path: str, query: dict[str, str], read_seconds: float) -> aiohttp.ClientResponse:
        """Return the open answer to a GET that succeeded; the caller closes it.

        `read_seconds` bounds each wait for more bytes. Raises `KubeError`, `GoneError` for a 410.
        """
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=read_seconds)
        try:
            # Looking up the server's name is in neither of the two.
            async with asyncio.timeout(_CONNECT_SECONDS + read_seconds):
                answer: aiohttp.ClientResponse = await self._api.call_api(
                    path,
                    "GET",
                    query_params=list(query.items()),
                    header_params={"Accept": "application/json"},
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _request_timeout=timeout,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KubeError(f"Kubernetes API at {self.server}: {one_line(error)}") from error
        if answer.status != 200:
            raise await self._failure(answer, path)
        if "json" not in answer.content_type:
            answer.close()
            line = f"Kubernetes API at {self.server}: GET {path}: {answer.content_type} where JSON was due"
            raise KubeError(line, why="malformed")
        return answer

    async def _failure(self, answer: aiohttp.ClientResponse, path: str) -> KubeError:
        body = b""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            body = await answer.content.read(_MAX_STATUS_BYTES)
        answer.close()
        line = f"Kubernetes API at {self.server}: GET {path}: {answer.status} {_message(body) or answer.reason}"
        if answer.status == 401:
            line += "; the token or certificate is not accepted"
        if answer.status == 403:
            line += "; this service account needs list and watch on pods, nodes and services in all namespaces"
        kind = GoneError if answer.status == 410 else KubeError
        return kind(line, answer.status, _seconds(answer.headers.get("Retry-After")))

    async def _configure(self, configuration: Any) -> None:
        import kubernetes_asyncio.config
        from yaml import YAMLError

        config: Any = kubernetes_asyncio.config
        try:
            async with asyncio.timeout(CREDENTIALS_SECONDS):
                await self._find(config, configuration)
        except (config.ConfigException, YAMLError, OSError, *_NOT_KUBECONFIG) as error:
            late = isinstance(error, TimeoutError)
            why = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            said = f"no credentials within {CREDENTIALS_SECONDS:g} s" if late else why
            asked = self._kubeconfig or ("the pod's service account" if self._where == "in-cluster" else "kubeconfig")
            raise Refusal(
                f"kube: {asked}: {said}; give --kubeconfig FILE, run in a pod, or use --topology FILE"
            ) from error

    async def _find(self, config: Any, configuration: Any) -> None:
        if self._where == "in-cluster":
            config.load_incluster_config(client_configuration=configuration)
        elif self._where == "kubeconfig" or self._kubeconfig is not None:
            await self._load_kubeconfig(config, configuration)
        else:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                await self._load_kubeconfig(config, configuration)

    async def _load_kubeconfig(self, config: Any, configuration: Any) -> None:
        # What it warns of, a file that is not there, is refused here in words of our own.
        logging.getLogger("kubernetes_asyncio.config").setLevel(logging.ERROR)
        from enricher.kube import exec_command

        exec_command.use()
        file = self._kubeconfig
        if file is not None:
            read_bounded(file)  # the library reads it to its end
        await config.load_kube_config(
            config_file=file and str(file), client_configuration=configuration, persist_config=False
        )


def _message(body: bytes) -> str:
    try:
        message = msgspec.json.decode(body, type=Status).message or ""
    except UNREADABLE:
        message = body[:200].decode("utf-8", "replace")
    return " ".join(message.split())


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:
        return None


def one_line(error: BaseException) -> str:
    """Return what an error says, or its name: Python's own for an answer that took too long says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
