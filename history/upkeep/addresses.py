# SPDX-License-Identifier: Apache-2.0
"""Takes addresses out of flows, as SQL over the flow log's columns: those that may be a person's, not the cluster's.

A pod, a node and a Service keep theirs. All else (external, unknown, an entry of the CIDR map) loses either the part
that names a host, or all of it. The flow stays, with its bytes; its id holds no address.
"""

import ipaddress
from functools import lru_cache
from typing import Literal

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType

from sinks.flowlog.archive.compaction import Chain, rollup_path

# How much is taken: from less to more.
Erasure = Literal["network", "all"]
LEVELS: tuple[Erasure, ...] = ("network", "all")
# What is left of an address: RIPE gives customers an IPv6 network of 48 bits, and IPv4 is routed by 24 at least.
KEPT_BITS = {4: 24, 6: 48}
# 6to4: after 16 bits stands an IPv4 address, whole (RFC 3056).
_6TO4, _6TO4_KEPT_BITS = ipaddress.ip_network("2002::/16"), 16 + KEPT_BITS[4]
_OWN = "('pod', 'node', 'service')"


def erased(database: duckdb.DuckDBPyConnection, view: str, how: Erasure) -> str:
    """Return a query of the rows of a view without such addresses; to be asked of this database."""
    left = "NULL"
    if how == "network":
        database.create_function(
            "network_of",
            _networks_of,
            ["VARCHAR"],
            "VARCHAR",
            type=PythonUDFType.ARROW,
            null_handling=FunctionNullHandling.SPECIAL,
        )
        left = "network_of({0}_address)"
    column = f"CASE WHEN {{0}}_kind IN {_OWN} THEN {{0}}_address ELSE {left} END AS {{0}}_address"
    return f"SELECT * REPLACE ({column.format('src')}, {column.format('dst')}) FROM {view}"  # noqa: S608 - our names


def done_already(chain: Chain, how: Erasure) -> set[str]:
    """Return the files and rollups of an hour out of which no less was taken.

    Where the hour expired, a file that has no rollup is not among them: the hour's rollups are kept if all files have.
    """
    done = chain.erased(at_least(how))
    return done - {path for path in chain.files if chain.expired and rollup_path(path) not in chain.rollups}


def at_least(how: Erasure) -> tuple[Erasure, ...]:
    """Return the levels at which no less is taken."""
    return LEVELS[LEVELS.index(how) :]


@lru_cache(maxsize=100_000)
def network_of(address: str) -> str | None:
    """Return an address without the part that names a host; None for what is not an address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    bits = _6TO4_KEPT_BITS if found in _6TO4 else KEPT_BITS[found.version]
    return str(ipaddress.ip_network((found, bits), strict=False).network_address)


def _networks_of(addresses: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.array([None if each is None else network_of(each) for each in addresses.to_pylist()], pa.string())
