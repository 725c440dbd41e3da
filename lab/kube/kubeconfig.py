# SPDX-License-Identifier: Apache-2.0
"""The kubeconfig file for the lab's API. Pure."""

import orjson


def kubeconfig(server: str, token: str) -> bytes:
    """Return a kubeconfig (JSON is YAML) with one cluster, one user and one context, all named `lab`."""
    return orjson.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": server}}],
            "users": [{"name": "lab", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        },
        option=orjson.OPT_INDENT_2,
    )
