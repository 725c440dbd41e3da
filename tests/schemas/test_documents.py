# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema files, the AsyncAPI document and the record types say the same."""

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import orjson
import pytest
import yaml

import schemas
from schemas import dead_letter, flow, ledger, raw, topology
from schemas.topics import TopicNames, topic_specs
from tests.support.builders import collector_entry, raw_chunk, sink_entry

FOLDER = Path(schemas.__file__).parent
RECORDS: dict[str, type[msgspec.Struct]] = {
    "raw.v1": raw.RawChunk,
    "flow.v1": flow.Flow,
    "ledger.v1": ledger.LedgerRecord,
    "topology.v1": topology.TopologyState,
    "dead-letter.v1": dead_letter.DeadLetter,
}
EXAMPLE_FLOW = b"""
{"id":"prod-eu/node-a1/5be6c2f0a91d/3/8121/0/57","start_ms":1795384000000,"end_ms":1795384010000,"scope":"cross_zone",
 "bytes":1048576,"packets":742,"direction":"egress","dnat":true,"server":"destination",
 "network":{"transport":"tcp","type":"ipv4"},
 "source":{"kind":"pod","address":"10.42.1.17","k8s":{"namespace":{"name":"shop"},"pod":{"name":"api-7d9f8b6c5-x2x9q"},
  "workload":{"kind":"Deployment","name":"api"},"node":{"name":"node-a1"}},
  "cloud":{"availability_zone":"eu-west-1a","region":"eu-west-1"}},
 "destination":{"kind":"pod","address":"10.42.2.9","port":5432,"k8s":{"namespace":{"name":"shop"},
  "pod":{"name":"postgres-0"},"workload":{"kind":"StatefulSet","name":"postgres"},"service":{"name":"postgres"},"node":{"name":"node-b1"}},
  "cloud":{"availability_zone":"eu-west-1b","region":"eu-west-1"}},
 "observer":{"node":"node-a1","cloud":{"availability_zone":"eu-west-1a","region":"eu-west-1"}},
 "k8s":{"cluster":{"name":"prod-eu"}},"raw":{"partition":3,"offset":88123}}
"""


def schema(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text())
    return document


@pytest.mark.parametrize("name", RECORDS)
def test_schema_and_record_type_name_the_same_fields(name: str) -> None:
    document = schema(name)
    jsonschema.Draft202012Validator.check_schema(document)
    fields = {field.encode_name: field.required for field in msgspec.structs.fields(RECORDS[name])}
    assert set(document["properties"]) == set(fields)
    assert set(document["required"]) - {"schema_version"} == {f for f, required in fields.items() if required} - {
        "schema_version"
    }


def examples() -> list[Any]:
    state = topology.TopologyState(
        kind="pod", uid="u1", resource_version="7", name="api-0", namespace="shop", addresses=["10.0.0.1"], from_ms=1
    )
    behind = (topology.Served("api", "tcp", 8080), topology.Served("api-hl", "tcp", 8080, headless=True))
    served = msgspec.structs.replace(state, services=("api", "api-hl"), served=behind)
    sliced = topology.TopologyState(
        kind="endpointslice",
        uid="u3",
        resource_version="9",
        name="api-x",
        namespace="shop",
        services=("api",),
        from_ms=1,
        end_points=(topology.ZoneEndPoints("eu-west-1a", 2, 1), topology.ZoneEndPoints(ready=1)),
    )
    named = topology.TopologyState(
        kind="namespace",
        uid="u2",
        resource_version="8",
        name="shop",
        from_ms=1,
        labels={"example.com/team": "a", "tier": None},
    )
    refused = dead_letter.dead_letter("not_json", "x", "enricher", "raw", 0, 7, 1, b"node", b"\xff" * 10)
    return [
        pytest.param("raw.v1", raw_chunk(["::1"], src=[0], dst=[0]), id="raw"),
        pytest.param("flow.v1", EXAMPLE_FLOW, id="flow"),
        pytest.param("ledger.v1", ledger.encode_ledger(collector_entry(1, 500)), id="collector"),
        pytest.param("ledger.v1", ledger.encode_ledger(sink_entry("metrics", 1, {1: 500})), id="sink"),
        pytest.param("topology.v1", topology.encode_topology(state), id="topology"),
        pytest.param("topology.v1", topology.encode_topology(served), id="a pod behind services"),
        pytest.param("topology.v1", topology.encode_topology(named), id="a namespace with a label"),
        pytest.param("topology.v1", topology.encode_topology(sliced), id="an EndpointSlice"),
        pytest.param("raw.v1", raw_chunk(["::1"], src=[0], dst=[0], server=[2]), id="raw with a server"),
        pytest.param("dead-letter.v1", refused, id="dead letter"),
    ]


@pytest.mark.parametrize(("name", "value"), examples())
def test_what_the_codecs_write_validates(name: str, value: bytes) -> None:
    jsonschema.Draft202012Validator(schema(name)).validate(orjson.loads(value))


def test_both_ways_of_reading_a_flow_agree() -> None:
    whole, head = flow.decode_flow(EXAMPLE_FLOW), flow.decode_head(EXAMPLE_FLOW)
    assert whole.source == flow.decode_endpoint(bytes(head.source))
    assert whole.destination == flow.decode_endpoint(bytes(head.destination))
    assert whole.observer == flow.decode_observer(bytes(head.observer))
    assert (whole.id, whole.bytes, whole.scope) == (head.id, head.bytes, head.scope)
    assert whole.source.k8s and whole.source.k8s.pod
    assert whole.source.k8s.pod.name == "api-7d9f8b6c5-x2x9q"


def test_a_dead_letter_keeps_the_bytes_and_says_what_it_cut() -> None:
    value = b"\x00\xff" * dead_letter.MAX_KEPT_BYTES
    letter = dead_letter.decode_dead_letter(
        dead_letter.dead_letter("too_large", "x" * 9_999, "enricher", "raw", 0, 7, 1, None, value)
    )
    assert letter.value is not None
    assert base64.b64decode(letter.value) == value[: dead_letter.MAX_KEPT_BYTES]
    assert letter.value_size == len(value)


def test_asyncapi_names_every_topic_and_its_schema() -> None:
    document = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text())
    channels = {channel["address"]: channel["bindings"]["kafka"] for channel in document["channels"].values()}
    for spec in topic_specs(TopicNames()):
        binding = channels.pop(spec.name)
        assert binding["partitions"] == spec.partitions
        assert binding["topicConfiguration"]["cleanup.policy"] == spec.config["cleanup.policy"].split(",")
    assert not channels
    payloads = {message["payload"]["$ref"] for message in document["components"]["messages"].values()}
    assert payloads == {f"./{name}.schema.json" for name in RECORDS}
