# SPDX-License-Identifier: Apache-2.0
"""pyroute2's rtnetlink and no more, for tc filters: the rest would be 5 MB of what a collector holds all its life.

`import pyroute2` imports all that the package has: a database, nftables, IPVS, 802.11. Its rtnetlink needs none of
that. So the package is registered without being run, and runs once somebody asks it for anything but its modules.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


def _make_known(spec: ModuleSpec) -> None:
    package = module_from_spec(spec)

    def attribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if find_spec(f"{spec.name}.{name}"):
            return importlib.import_module(f"{spec.name}.{name}")
        del vars(package)["__getattr__"]
        _run(spec, package)
        return getattr(package, name)

    vars(package)["__getattr__"] = attribute  # PEP 562
    sys.modules[spec.name] = package


def _run(spec: ModuleSpec, package: ModuleType) -> None:
    if spec.loader is not None:
        spec.loader.exec_module(package)


if "pyroute2" not in sys.modules and (_found := find_spec("pyroute2")) is not None:
    _make_known(_found)

from pyroute2.iproute import IPRoute  # noqa: E402 - not before the package is known
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

__all__ = ["IPRoute", "NetlinkError"]
