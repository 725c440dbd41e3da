# SPDX-License-Identifier: Apache-2.0
from typing import Any

import orjson
import pytest

from schemas.errors import DecodeError
from schemas.ledger import encode_ledger, read_ledger
from schemas.topology import decode_topology_file, encode_topology, read_state
from tests.support.builders import collector_entry
from tests.support.enricher.build import node, pod


def test_a_state_stands_under_its_key() -> None:
    state = pod("api-1", "10.42.1.17", "node-a1")
    assert read_state(encode_topology(state), state.key) == state


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"schema_version": 2, "from_ms": "then"}])
def test_states_and_entries_of_a_newer_version_are_refused(change: dict[str, Any]) -> None:
    """What a field means there is not known: an entry's amounts may be of something else."""
    state, entry = pod("api-1", "10.42.1.17", "node-a1"), collector_entry(1, 100)
    newer = orjson.dumps(orjson.loads(encode_topology(state)) | change)
    says = r"^unsupported_version: schema_version 2, this reader knows 1$"
    with pytest.raises(DecodeError, match=says):
        read_state(newer, state.key)
    with pytest.raises(DecodeError, match=says):
        read_ledger(orjson.dumps(orjson.loads(encode_ledger(entry)) | change), entry.key, entry.partition)
    assert decode_topology_file(b"[" + encode_topology(state) + b"]") == [state]
    if "from_ms" not in change:
        with pytest.raises(DecodeError, match=says):
            decode_topology_file(b"[" + newer + b"]")


@pytest.mark.parametrize("key", [None, b"", b"pod/uid-api-1/101", node("node-a1", "192.168.0.11").key])
def test_one_under_another_key_would_outlive_its_own_and_is_refused(key: bytes | None) -> None:
    with pytest.raises(DecodeError, match=r"^inconsistent: the key is .*, not b'pod/uid-api-1/100'"):
        read_state(encode_topology(pod("api-1", "10.42.1.17", "node-a1")), key)
