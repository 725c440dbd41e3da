# SPDX-License-Identifier: Apache-2.0
import pytest

from schemas.errors import DecodeError
from schemas.topology import encode_topology, read_state
from tests.support.enricher.build import node, pod


def test_a_state_stands_under_its_key() -> None:
    state = pod("api-1", "10.42.1.17", "node-a1")
    assert read_state(encode_topology(state), state.key) == state


@pytest.mark.parametrize("key", [None, b"", b"pod/uid-api-1/101", node("node-a1", "192.168.0.11").key])
def test_one_under_another_key_would_outlive_its_own_and_is_refused(key: bytes | None) -> None:
    with pytest.raises(DecodeError, match=r"^inconsistent: the key is .*, not b'pod/uid-api-1/100'"):
        read_state(encode_topology(pod("api-1", "10.42.1.17", "node-a1")), key)
