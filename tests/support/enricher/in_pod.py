# SPDX-License-Identifier: Apache-2.0
"""An enricher that finds itself in a pod: -m tests.support.enricher.in_pod SERVICEACCOUNT_DIRECTORY API_PORT FLAGS

In a mount namespace of its own, which ends with it, the directory stands where a kubelet puts a service account's
token and authority; the environment names the API server as a kubelet does.
"""

import ctypes
import os
import sys
from pathlib import Path

from enricher.main import main
from lab.network.namespaces import run

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_PLACE = Path("/run/secrets/kubernetes.io/serviceaccount")  # /var/run is a link to /run


def enter(directory: str, port: str) -> None:
    """Make this process one in a pod."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run(["mount", "--make-rprivate", "/"])
    run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    _PLACE.mkdir(parents=True)
    run(["mount", "--bind", directory, str(_PLACE)])
    os.environ |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}


if __name__ == "__main__":
    listen, address, directory, port, *flags = sys.argv[1:]
    enter(directory, port)
    sys.exit(main([listen, address, *flags]))
