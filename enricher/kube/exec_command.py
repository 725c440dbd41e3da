# SPDX-License-Identifier: Apache-2.0
"""The command that a kubeconfig names for credentials, run so that nothing of it lives on when it is given up.

kubernetes_asyncio leaves it running, and each retry would leave one more; it also reads all of stdout before stderr,
so that a command that says much waits forever. What it makes of the answer is its own.
"""

import json
import shlex
from types import SimpleNamespace
from typing import Any

from kubernetes_asyncio.config import ConfigException, kube_config
from kubernetes_asyncio.config.exec_provider import ExecProvider

from common.input import command

# A token, or a certificate with its chain and its key.
_MAX_BYTES = 1024 * 1024


class BoundedExec(ExecProvider):
    """`users[].user.exec` of a kubeconfig."""

    async def run(self, previous_response: str | None = None) -> dict[str, Any]:
        """Return an ExecCredential's `status`; raise `ConfigException` if the command gives none."""
        spec = {"interactive": False} | ({"response": previous_response} if previous_response else {})
        asked = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}
        answer = await _run(self.args, self.env | {"KUBERNETES_EXEC_INFO": json.dumps(asked)})
        given, status = answer.get("apiVersion"), answer.get("status")
        if given != self.api_version or not isinstance(status, dict):
            raise ConfigException(f"{self.args[0]} printed no ExecCredential of {self.api_version} with a status")
        return status


async def gcloud(provider: Any) -> SimpleNamespace:
    """Return what the command of `auth-provider: gcp` gives, which older kubeconfigs have."""
    answer = await _run([provider["cmd-path"], *shlex.split(provider["cmd-args"])], None)
    return SimpleNamespace(token=answer["credential"]["access_token"], expiry=answer["credential"]["token_expiry"])


def use() -> None:
    """Have kubernetes_asyncio run these instead of its own, which its functions give no way to choose."""
    library: Any = kube_config
    library.ExecProvider, library.google_auth_credentials = BoundedExec, gcloud


async def _run(words: list[str], env: dict[str, str] | None) -> dict[str, Any]:
    try:
        out = await command.run(words, _MAX_BYTES, env)
    except command.CommandError as error:
        raise ConfigException(f"{words[0]} {error}") from error
    try:
        answer = json.loads(out)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ConfigException(f"{words[0]} printed {len(out)} bytes that are not a JSON object")
    return answer
