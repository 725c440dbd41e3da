# SPDX-License-Identifier: Apache-2.0
"""`zonemeter cidrs import`: what clouds' command lines print becomes a CIDR map, dated, and nothing is guessed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enricher.index.cidrs import load_cidr_map
from history.cidrs import imports
from tests.history.conftest import Command, Ran

VPC = "vpc-0a1b2c3d"
SUBNETS = {
    "Subnets": [
        {
            "SubnetId": f"subnet-0{letter}",
            "VpcId": VPC,
            "CidrBlock": f"10.60.{number}.0/24",
            "Ipv6CidrBlockAssociationSet": [{"Ipv6CidrBlock": f"2a05:d018:1:{number}::/64"}] if letter == "a" else [],
            "AvailabilityZone": f"eu-west-1{letter}",
            "AvailabilityZoneId": f"euw1-az{number}",
            "Tags": [{"Key": "Name", "Value": f"db-{letter}"}] if letter != "c" else [],
        }
        for number, letter in enumerate("abc", 1)
    ]
}


def interface(description: str, address: str, letter: str = "a", group: str = "sg-1", **more: Any) -> dict[str, Any]:
    fields = {
        "NetworkInterfaceId": "eni-1",
        "VpcId": VPC,
        "AvailabilityZone": f"eu-west-1{letter}",
        "Description": description,
        "Groups": [{"GroupId": group}],
        "PrivateIpAddress": address,
        "PrivateIpAddresses": [{"PrivateIpAddress": address, "Primary": True}],
    }
    return fields | more


def database(name: str, letter: str, group: str = "sg-1") -> dict[str, Any]:
    return {
        "DBInstanceIdentifier": name,
        "AvailabilityZone": f"eu-west-1{letter}",
        "DBSubnetGroup": {"VpcId": VPC},
        "VpcSecurityGroups": [{"VpcSecurityGroupId": group, "Status": "active"}],
    }


INTERFACES = {
    "NetworkInterfaces": [
        interface("RDSNetworkInterface", "10.60.1.7"),
        interface("RDSNetworkInterface", "10.60.2.8", "b", "sg-2"),
        interface("RDSNetworkInterface", "10.60.2.9", "b", "sg-2"),
        interface("ElastiCache orders-0001-001", "10.60.1.8"),
        interface("ELB app/shop/50dc6c495c0c9188", "10.60.1.9"),
        interface("Interface for NAT Gateway nat-0abc", "10.60.1.10"),
        interface("VPC Endpoint Interface vpce-0abc", "10.60.1.11"),
        interface("Amazon EKS prod-eu", "10.60.1.12"),
        interface("AWS Lambda VPC ENI-resize-1b4e28ba-2fa1-11d2-883f-0016d3cca427", "10.60.1.13"),
        interface("aws-K8S-i-0a1b2c3d4e5f60718", "10.60.1.20"),
        interface("", "10.60.1.21"),
    ]
}
DATABASES = {"DBInstances": [database("orders", "a"), database("stock", "b", "sg-2"), database("users", "b", "sg-2")]}


@pytest.fixture
def run(command: Command) -> Any:
    """Run `zonemeter cidrs import`."""
    return lambda *argv: command(imports.import_, *map(str, argv))


def saved(directory: Path, **documents: Any) -> list[Path]:
    paths = []
    for name, content in documents.items():
        paths.append(directory / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


def mapped(path: Path) -> dict[str, tuple[str, str | None, str | None, str | None]]:
    return {each.cidr: (each.name, each.zone, each.region, each.zone_id) for each in load_cidr_map(path).entries}


def test_the_map_is_on_disk_before_it_has_its_name(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, out, synced = saved(tmp_path, subnets=SUBNETS), tmp_path / "cidrs.toml", []

    def sync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, out.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    assert run("aws", *files, "--cidr-map", out)[0] == 0
    assert synced == [(".cidrs.toml.new", False), (tmp_path.name, True)]


def test_aws_subnets_give_zones_and_interfaces_names(run: Any, tmp_path: Path) -> None:
    files, out = saved(tmp_path, subnets=SUBNETS, interfaces=INTERFACES, databases=DATABASES), tmp_path / "cidrs.toml"
    status, said, err = run("aws", *files, "--cidr-map", out)
    assert (status, err) == (0, "")
    found = mapped(out)
    zone_a, zone_b = ("eu-west-1a", "eu-west-1", "euw1-az1"), ("eu-west-1b", "eu-west-1", "euw1-az2")
    assert found["10.60.1.0/24"] == ("db-a", *zone_a)
    assert found["2a05:d018:1:1::/64"] == ("db-a", *zone_a)
    assert found["10.60.3.0/24"] == ("subnet-0c", "eu-west-1c", "eu-west-1", "euw1-az3")
    assert found["10.60.1.7/32"] == ("rds/orders", *zone_a)
    assert found["10.60.2.8/32"] == found["10.60.2.9/32"] == ("rds", *zone_b), "two may be either's: nobody knows"
    names = {found[f"10.60.1.{number}/32"][0] for number in range(8, 14)}
    assert names == {
        "cache/orders-0001-001",
        "alb/shop",
        "nat/nat-0abc",
        "endpoint/vpce-0abc",
        "eks/prod-eu",
        "lambda/resize",
    }
    assert not {"10.60.1.20/32", "10.60.1.21/32"} & found.keys(), "nodes' own"
    assert "new      10.60.1.7/32  rds/orders  eu-west-1a" in said


def test_each_import_is_dated_and_what_was_true_before_is_kept(run: Any, tmp_path: Path) -> None:
    (path,), out = saved(tmp_path, subnets=SUBNETS), tmp_path / "cidrs.toml"
    assert run("aws", path, "--cidr-map", out, "--at", "2026-11-01T00:00:00Z")[0] == 0
    first = out.read_bytes()
    assert first.startswith(b"# As of 2026-11-01 00:00:00 UTC")
    moved = json.loads(path.read_text())
    moved["Subnets"][0] |= {"AvailabilityZone": "eu-west-1c", "AvailabilityZoneId": "euw1-az3"}
    del moved["Subnets"][2]
    path.write_text(json.dumps(moved))
    status, said, _ = run("aws", path, "--cidr-map", out, "--at", "2026-11-20T12:00:00Z")
    assert status == 0
    assert "changed  10.60.1.0/24  db-a  zone eu-west-1a -> eu-west-1c, zone_id euw1-az1 -> euw1-az3" in said
    assert "gone     10.60.3.0/24  subnet-0c  eu-west-1c" in said
    former = tmp_path / "cidrs.until-2026-11-20T12-00-00Z.toml"
    assert former.read_bytes() == first
    assert mapped(out)["10.60.1.0/24"][1] == "eu-west-1c"
    status, said, _ = run("aws", path, "--cidr-map", out, "--at", "2026-11-21T00:00:00Z")
    assert (status, "0 changed" in said) == (0, True)
    assert sorted(tmp_path.glob("*.toml")) == [out, former], "nothing changed"


def test_without_a_map_nothing_is_written(run: Any, tmp_path: Path) -> None:
    files = saved(tmp_path, subnets=SUBNETS)
    status, said, _ = run("aws", *files)
    assert (status, "nothing is written" in said) == (0, True)
    assert list(tmp_path.glob("*.toml")) == []


def test_what_was_written_by_hand_stays_and_comes_first(run: Any, tmp_path: Path) -> None:
    own, out = tmp_path / "mine.toml", tmp_path / "cidrs.toml"
    own.write_text('[[cidr]]\ncidr = "10.60.1.0/24"\nname = "mine"\nours = true\n')
    assert run("aws", *saved(tmp_path, subnets=SUBNETS), "--by-hand", own, "--cidr-map", out)[0] == 0
    assert mapped(out)["10.60.1.0/24"] == ("mine", None, None, None)
    assert load_cidr_map(out).entries[0].ours
    assert len(mapped(out)) == 4


def test_google_cloud(run: Any, tmp_path: Path) -> None:
    base = "https://www.googleapis.com/compute/v1/projects/p"
    files = saved(
        tmp_path,
        subnets=[
            {
                "name": "default",
                "ipCidrRange": "10.132.0.0/20",
                "region": f"{base}/regions/europe-west1",
                "secondaryIpRanges": [{"rangeName": "pods", "ipCidrRange": "10.4.0.0/14"}],
            }
        ],
        instances=[
            {
                "name": "builder",
                "zone": f"{base}/zones/europe-west1-b",
                "networkInterfaces": [{"networkIP": "10.132.0.9"}],
            }
        ],
        sql=[
            {
                "name": "orders",
                "region": "europe-west1",
                "gceZone": "europe-west1-c",
                "ipAddresses": [
                    {"type": "PRIMARY", "ipAddress": "34.1.2.3"},
                    {"type": "PRIVATE", "ipAddress": "10.9.0.3"},
                ],
            }
        ],
        redis=[
            {
                "name": "projects/p/locations/europe-west1/instances/cart",
                "host": "10.9.1.4",
                "currentLocationId": "europe-west1-d",
            }
        ],
    )
    out = tmp_path / "cidrs.toml"
    assert run("gcp", *files, "--cidr-map", out)[0] == 0
    assert mapped(out) == {
        "10.4.0.0/14": ("default/pods", None, "europe-west1", None),
        "10.9.0.3/32": ("sql/orders", "europe-west1-c", "europe-west1", None),
        "10.9.1.4/32": ("redis/cart", "europe-west1-d", "europe-west1", None),
        "10.132.0.0/20": ("default", None, "europe-west1", None),
        "10.132.0.9/32": ("vm/builder", "europe-west1-b", "europe-west1", None),
    }


def test_azure(run: Any, tmp_path: Path) -> None:
    files = saved(
        tmp_path,
        vnets=[
            {
                "name": "prod",
                "location": "westeurope",
                "subnets": [
                    {"name": "db", "addressPrefix": "10.8.0.0/24"},
                    {"name": "v6", "addressPrefixes": ["fd00::/64"]},
                ],
            }
        ],
        vms=[
            {"name": "jump", "location": "westeurope", "zones": ["2"], "privateIps": "10.8.0.4,10.8.0.5"},
            {"name": "old", "location": "westeurope", "zones": None, "privateIps": "10.8.0.6"},
        ],
    )
    out = tmp_path / "cidrs.toml"
    assert run("azure", *files, "--cidr-map", out)[0] == 0
    assert mapped(out) == {
        "10.8.0.0/24": ("prod/db", None, "westeurope", None),
        "10.8.0.4/32": ("vm/jump", "westeurope-2", "westeurope", None),
        "10.8.0.5/32": ("vm/jump", "westeurope-2", "westeurope", None),
        "10.8.0.6/32": ("vm/old", None, "westeurope", None),
        "fd00::/64": ("prod/v6", None, "westeurope", None),
    }


def test_published_ranges_name_what_is_external(run: Any, tmp_path: Path) -> None:
    def aws(network: str, service: str, region: str) -> dict[str, str]:
        return {"ip_prefix": network, "service": service, "region": region, "network_border_group": region}

    prefixes = [
        aws("52.218.0.0/17", "AMAZON", "eu-west-1"),
        aws("52.218.0.0/17", "S3", "eu-west-1"),
        aws("52.218.1.0/24", "S3", "eu-west-1"),
        aws("3.5.0.0/19", "S3", "us-east-1"),
        aws("54.240.0.0/18", "AMAZON", "GLOBAL"),
        aws("54.240.0.0/18", "CLOUDFRONT", "GLOBAL"),
        aws("54.240.0.0/18", "EC2", "GLOBAL"),
    ]
    v6 = [{"ipv6_prefix": "2a05:d070:8000::/40", "service": "AMAZON", "region": "eu-west-1"}]
    (path,), out = saved(tmp_path, ranges={"prefixes": prefixes, "ipv6_prefixes": v6}), tmp_path / "cidrs.toml"
    assert run("aws", path, "--cidr-map", out)[0] == 0
    found = load_cidr_map(out).entries
    assert all(each.external for each in found)
    assert {each.cidr: each.name for each in found} == {
        "3.5.0.0/19": "aws/S3/us-east-1",
        "52.218.0.0/17": "aws/S3/eu-west-1",
        "54.240.0.0/18": "aws/CLOUDFRONT+EC2/GLOBAL",
        "2a05:d070:8000::/40": "aws/AMAZON/eu-west-1",
    }
    (subnets,) = saved(tmp_path, subnets=SUBNETS)
    status, said, _ = run(
        "aws", path, subnets, "--region", "eu-west-1", "--cidr-map", out, "--at", "2026-11-20T12:00:00Z"
    )
    assert (status, "gone     3.5.0.0/19  aws/S3/us-east-1  external" in said) == (0, True)
    assert mapped(out)["10.60.1.0/24"][1] == "eu-west-1a"


def test_published_ranges_of_google_cloud_and_azure(run: Any, tmp_path: Path) -> None:
    google = {
        "prefixes": [
            {"ipv4Prefix": "34.35.0.0/16", "service": "Google Cloud", "scope": "africa-south1"},
            {"ipv6Prefix": "2600:1900:8000::/44", "service": "Google Cloud", "scope": "africa-south1"},
        ]
    }
    tags = {
        "values": [
            {"name": name, "properties": {"region": region, "addressPrefixes": ["20.38.108.0/23"]}}
            for name, region in (
                ("AzureCloud.westeurope", "westeurope"),
                ("Storage.WestEurope", "westeurope"),
                ("Storage", ""),
            )
        ]
    }
    out = tmp_path / "cidrs.toml"
    for cloud, document, network, name in (
        ("gcp", google, "34.35.0.0/16", "gcp/Google Cloud/africa-south1"),
        ("azure", tags, "20.38.108.0/23", "azure/Storage/westeurope"),
    ):
        out.unlink(missing_ok=True)
        assert run(cloud, *saved(tmp_path, ranges=document), "--cidr-map", out)[0] == 0
        assert {each.cidr: each.name for each in load_cidr_map(out).entries}[network] == name


def refused(ran: Ran, said: str) -> None:
    status, out, err = ran
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_bad_input_is_one_line_and_nothing_is_written(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "cidrs.toml"
    (path,) = saved(tmp_path, subnets=SUBNETS)
    path.write_bytes(path.read_bytes()[:200])
    refused(run("aws", path, "--cidr-map", out), "not JSON: ")
    refused(run("aws", tmp_path / "none.json"), "No such file or directory")
    (ranges,) = saved(tmp_path, ranges={"syncToken": "1", "prefixes": [{"ip_prefix": "3.5.140.0/22"}]})
    refused(run("aws", ranges), "Object missing required field `service` - at `$.prefixes[0]`; expected ip-ranges.json")
    (ranges,) = saved(tmp_path, ranges={"prefixes": [{"ip_prefix": "10.0.0.0/22", "service": "S3", "region": "r"}]})
    refused(run("aws", ranges, "--cidr-map", out), "external is of a public network")
    refused(
        run("aws", *saved(tmp_path, other={"Buckets": []})), "expected what aws ... describe-* printed, with Subnets"
    )
    refused(run("gcp", *saved(tmp_path, aws=SUBNETS)), "expected a JSON array")
    lacking = {"Subnets": [{"SubnetId": "subnet-1", "CidrBlock": "10.0.0.0/24"}]}
    refused(
        run("aws", *saved(tmp_path, lacking=lacking)),
        "Object missing required field `AvailabilityZone` - at `$.Subnets[0]`; expected what aws",
    )
    wrong = {"Subnets": [SUBNETS["Subnets"][0] | {"CidrBlock": "10.60.1.1/24"}]}
    refused(run("aws", *saved(tmp_path, wrong=wrong)), "has host bits set")
    refused(run("aws", *saved(tmp_path, empty={"Subnets": []})), "no network, and no interface")
    refused(run("azure", *saved(tmp_path, other=[{"name": "x"}])), "'x' is neither a virtual network")
    refused(run("aws", *saved(tmp_path, listed={"Subnets": ["x"]})), "Expected `object`, got `str` - at `$.Subnets[0]`")
    refused(run("aws", *saved(tmp_path, ok=SUBNETS), "--at", "2126-01-01"), "lies in the future")
    refused(run("oracle", *saved(tmp_path, ok=SUBNETS)), "Input should be 'aws', 'gcp' or 'azure'")
    assert not out.exists()


_GCP = {
    "name": "a",
    "networkInterfaces": [{"networkIP": "10.0.0.1"}],
    "ipAddresses": [{"type": "PRIVATE", "ipAddress": "10.0.0.2"}],
    "secondaryIpRanges": [{"rangeName": "pods", "ipCidrRange": "10.4.0.0/14"}],
    "ipCidrRange": "10.1.0.0/20",
}
_AZURE = {"name": "a", "location": "w", "subnets": [{"name": "s", "addressPrefixes": ["10.8.0.0/24"]}], "zones": ["1"]}
_AZURE_TAG = {"name": "S", "properties": {"region": "w", "addressPrefixes": ["20.0.0.0/16"]}}
_AWS_RANGE = {"ip_prefix": "3.5.140.0/22", "service": "S3", "region": "r"}


@pytest.mark.parametrize(
    ("cloud", "content"),
    [
        ("aws", {**SUBNETS, **INTERFACES, **DATABASES}),
        ("aws", {"prefixes": [_AWS_RANGE]}),
        ("gcp", [_GCP]),
        ("gcp", {"prefixes": [{"ipv4Prefix": "34.1.0.0/20", "service": "Google Cloud", "scope": "r"}]}),
        ("azure", [_AZURE]),
        ("azure", {"values": [_AZURE_TAG]}),
    ],
    ids=["aws", "aws published", "gcp", "gcp published", "azure", "azure published"],
)
@pytest.mark.parametrize("rubbish", [None, 5, "x", [], {}, [5], {"a": 1}], ids=repr)
def test_rubbish_in_any_place_is_taken_or_one_line(
    run: Any, tmp_path: Path, cloud: str, content: Any, rubbish: Any
) -> None:
    for changed in _with_rubbish(content, rubbish):
        status, _, err = run(cloud, *saved(tmp_path, changed=changed))
        assert status in (0, 2)
        assert len(err.splitlines()) == (1 if status else 0)


def _with_rubbish(content: Any, rubbish: Any) -> Iterator[Any]:
    """Yield the content with one value after the other replaced, itself too; of a list its first alone."""
    yield rubbish
    places = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for place, value in places:
        for changed in _with_rubbish(value, rubbish):
            made = dict(content) if isinstance(content, dict) else list(content)
            made[place] = changed
            yield made


def test_one_network_in_two_vpcs_is_chosen_by_name(run: Any, tmp_path: Path) -> None:
    other = SUBNETS["Subnets"][0] | {"VpcId": "vpc-2", "AvailabilityZone": "eu-west-1c"}
    (path,), out = saved(tmp_path, both={"Subnets": [*SUBNETS["Subnets"], other]}), tmp_path / "cidrs.toml"
    refused(run("aws", path), "10.60.1.0/24 is db-a in eu-west-1c, and db-a in eu-west-1a in")
    assert run("aws", path, "--vpc", VPC, "--cidr-map", out)[0] == 0
    assert mapped(out)["10.60.1.0/24"][1] == "eu-west-1a"


def test_names_with_toml_and_markup_in_them_stay_data(run: Any, tmp_path: Path) -> None:
    name = 'x"\n[[cidr]]\ncidr = "0.0.0.0/0" # <b>\x1b[2J\x7f\\'
    subnet = SUBNETS["Subnets"][1] | {"Tags": [{"Key": "Name", "Value": name}]}
    out = tmp_path / "cidrs.toml"
    status, said, _ = run("aws", *saved(tmp_path, subnets={"Subnets": [subnet]}), "--cidr-map", out)
    assert status == 0
    assert "\x1b" not in said
    assert mapped(out) == {"10.60.2.0/24": (name, "eu-west-1b", "eu-west-1", "euw1-az2")}
