# SPDX-License-Identifier: Apache-2.0
"""The chart refuses the values that the program would refuse, before a pod begins to crash, and no others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cli.topics import TopicsSettings
from collector.settings import CollectorSettings
from common.errors import Refusal
from common.kafka.auth import tokens
from common.settings import KafkaSettings, ServiceSettings
from enricher.index.cidrs import read_cidr_map
from enricher.settings import EnricherSettings
from history.upkeep.settings import ExpireSettings
from prices.file import load_prices
from sinks.flowlog.settings import FlowlogSettings
from sinks.metrics.settings import MetricsSettings
from tests.k8s.rendered import CHART, template


def cidr_map(entries: Any) -> None:
    read_cidr_map(json.dumps({"cidr": entries}).encode(), "cidrs.json")


def cidr(text: str) -> list[dict[str, str]]:
    return [{"cidr": text, "name": "db"}]


# Of each value that a program has a bound for, what is just within and just beyond, and how the program reads it.
BOUNDS: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "archiveUpkeep.keep": (
        lambda text: ExpireSettings(archive="/", keep=text),
        ["395d", "1d12h", "2 weeks", "1000ms", "0h1s", "1.5d", "5y", "0d", "d", "1", "1 d"],
    ),
    "kafka.bootstrap": (
        lambda text: KafkaSettings(kafka_bootstrap=text),
        [
            *("kafka:9092", "[fd00::1]:9092", "a:1,[::1]:65535"),
            *("fd00::1:9092", "a:65536", "a:99999", "a", "a:1,", "[a:1"),
        ],
    ),
    "kafka.partitions": (lambda number: KafkaSettings(partitions=number), [1, 1000, 0, 1001]),
    "kafka.sasl.mskRegion": (
        lambda text: text and tokens.source(KafkaSettings(kafka_sasl_msk_region=text)),
        ["", "eu-west-1", "us-gov-east-1", "eu", "eu-", "eu-west-1-", "EU-west-1", "euw-1"],
    ),
    "cluster": (
        lambda text: ServiceSettings(cluster=text),
        [
            *("a", "a" * 253, "prod eu", "a|b", "a=b, \"c\": 'd'", "münchen", "東京", "žoo"),
            *(
                "",
                "a" * 254,
                "a/b",
                "a\tb",
                "a\nb",
                "a\n",
                "a\x1b[0m",
                "a\x7f",
                "a\x85",
                "a\u00a0b",
                "a\u200bb",
                "a\u2028b",
            ),
        ],
    ),
    "topics.replication": (lambda number: TopicsSettings(replication=number), [2, 32767, 0, 32768]),
    "collector.hook": (lambda text: CollectorSettings(hook=text), ["auto", "netfilter", "tc", "TC", ""]),
    "collector.mapMemory": (
        lambda text: CollectorSettings(map_memory=text),
        [
            *("4096", "4096B", "4KiB", "4.1kB", "64MiB", "64 mib", "64M", "1.5GiB", ".5gb", "8GiB", "8388608 KiB"),
            *("4095", "4095.9", "1B", "4kB", "8.1GiB", "9GiB", "1TB", "0.0", "1e6", "64Mi", "-1", "", "64MiBs"),
        ],
    ),
    "collector.spoolSize": (
        lambda text: CollectorSettings(spool_size=text),
        ["0", "0B", "512MiB", "2 TiB", "1PB", "512Mi", "-1", "", "1,5GiB"],
    ),
    "enricher.namespaceLabels": (
        lambda names: EnricherSettings(namespace_labels=",".join(names)),
        [
            *([], ["team"], ["example.com/team", "a.b-c/X_y.z", "1"], ["a" * 63], ["a" * 63 + "/a"]),
            *([f"{'a.' * 126}a/b"], [f"l{n}" for n in range(16)]),
            *(["a" * 64], [f"{'a.' * 127}a/b"], [f"l{n}" for n in range(17)], ["a//b"], ["a/b/c"], ["-a"], ["a-"]),
            *(["A.com/team"], ["a..b/c"], ["/a"], ["a/"], ["a b"], ["a,-b"], ["*"]),
        ],
    ),
    "cidrs": (
        cidr_map,
        [
            *map(
                cidr, ("10.20.0.0/16", "0.0.0.0/0", "255.255.255.255/32", "10.1.2.3", "fd00::/8", "::/0", "::1", "1::8")
            ),
            *map(cidr, ("1:2:3:4:5:6:7:8/128", "1::3:4:5:6:7:8", "1:2:3:4:5:6:7::", "2001:DB8::/32")),
            *map(
                cidr, ("10.20.0.0/33", "256.0.0.0/8", "10.20.0/16", "010.0.0.0/8", "10.0.0.0.0", "10.0.0.0/", "a", "")
            ),
            *map(cidr, ("fd00::/129", "1::2::3/128", "12345::/16", ":1/128", "1:2:3:4:5:6:7:8:9", "1:2:3/128", "::/")),
            [{"cidr": "10.0.0.0/8", "name": ""}],
            [{"cidr": "10.0.0.0/8"}],
            [{"cidr": "10.0.0.0/8", "name": "a", "zone": ""}],
            [{"cidr": "10.0.0.0/8", "name": "a", "zones": "b"}],
            [{"cidr": "52.92.0.0/17", "name": "s3", "region": "eu-west-1", "external": True}],
            [{"cidr": "52.92.0.0/17", "name": "s3", "external": True, "ours": False}],
            [{"cidr": "52.92.0.0/17", "name": "s3", "external": False, "zone": "a"}],
            [{"cidr": "52.92.0.0/17", "name": "s3", "external": True, "zone": "a"}],
            [{"cidr": "52.92.0.0/17", "name": "s3", "external": True, "zone_id": "a"}],
            [{"cidr": "52.92.0.0/17", "name": "s3", "external": True, "ours": True}],
        ],
    ),
    "metrics.prices": (lambda text: text and load_prices(text), ["", "aws", "azure", "gcp", "oracle", "AWS"]),
    "metrics.replicas": (lambda number: MetricsSettings(replicas=number), [1, 12, 0, 13]),
    "flowlog.output": (
        lambda text: FlowlogSettings(output=text),
        [
            *("s3://bucket", "s3://bucket/a path/b", "s3://bucket/p?", "gs://bucket/path", "abfs://c@account/p"),
            *("abfss://c@account.dfs.core.windows.net", "abfs://account/p", "s3://b?region=eu-west-1&scheme=http"),
            *("s3://b/p?endpoint_override=minio.storage:9000", "s3://b/p?endpoint_override=[::1]:9000&region="),
            *("s3://key:secret@bucket/p", "s3://b/p?access_key=a", "s3://b/p?region", "s3://b/p?scheme=ftp"),
            *("s3://b/p?endpoint_override=http://minio", "gs://b/p?region=a", "abfs://c@a@b/p", "gs://a@b/p"),
        ],
    ),
    "flowlog.cutSeconds": (lambda number: FlowlogSettings(cut_seconds=number), [0.1, 1, 86400, 0, -1, 86401]),
}


@pytest.mark.parametrize("value", BOUNDS)
def test_a_value_is_what_the_program_takes(value: str, tmp_path: Path) -> None:
    """Of a CIDR map host bits and what is there twice are the enricher's to refuse: a schema cannot."""
    reads, given = BOUNDS[value]
    file = tmp_path / "values.yaml"
    refused = 0
    for each in given:
        content = each
        for name in reversed(value.split(".")):
            content = {name: content}
        file.write_text(json.dumps(content))
        done = template(str(CHART), "-n", "zonemeter", "-f", str(file), "-s", "templates/settings.yaml")
        try:
            reads(each)
        except (ValidationError, Refusal):
            refused += 1
            assert done.returncode != 0, each
            assert value.rpartition(".")[2] in done.stderr
        else:
            assert done.returncode == 0, (each, done.stderr)
    assert 0 < refused < len(given)
