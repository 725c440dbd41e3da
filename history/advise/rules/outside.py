# SPDX-License-Identifier: Apache-2.0
"""What the cloud's own things do: a load balancer that sends to other zones, a store that is reached by a NAT. Pure.

They go by the names that `zonemeter cidrs import` gives them: without a CIDR map nothing of this is to be seen.
"""

from collections import defaultdict
from collections.abc import Iterator

from common.amounts import first_few, human
from history.advise.finding import Case, Finding, Sure
from history.advise.service_use import Use, is_bearable, last_zones, load_afterwards, load_line, use_of
from history.model.evidence import Cell
from history.model.states.ready import SERVICE, Group, workload_of

# AWS bills what these send to other zones, and not what Application and Classic Load Balancers do.
BILLED = ("cidr/nlb/", "cidr/gwlb/")
# What AWS reaches by an end point of the route table that costs nothing.
GATEWAY_SERVICES = ("S3", "DYNAMODB")
_OTHERWISE = (
    "that is not what cross-zone balancing gives: see whether the CIDR map has each subnet in its zone, and whether "
    "the target group was changed in the range"
)


def findings(case: Case) -> Iterator[Finding]:
    """Yield what load balancers send to other zones, and what goes to stores by public addresses."""
    yield from _load_balancers(case)
    yield from _stores(case)


def _load_balancers(case: Case) -> Iterator[Finding]:
    sent: defaultdict[tuple[str, Group], list[tuple[Cell, int]]] = defaultdict(list)
    for cell, size in case.cells.items():
        if cell.serves is not None and cell.client.label.startswith(BILLED) and not cell.relay:
            group = Group(cell.server.namespace, SERVICE, cell.service) if cell.service else None
            if target := group or workload_of(cell.server.label):
                sent[cell.client.label, target].append((cell, size))
    for (label, target), cells in sorted(sent.items()):
        steps = case.ready.get(target, ())
        use = use_of(cells, case.evidence, steps, case.evidence.span.from_ms, headless=True)
        if not use.sparable or not any(cell.crosses for cell, _ in cells):
            continue
        load = load_afterwards(use, last_zones(steps))
        served = use.served
        sure: Sure = "likely" if served.is_blind and not use.lacking and is_bearable(load) else "ask"
        yield Finding(
            kind="load_balancer",
            title="a load balancer sends to targets in other zones",
            subject=label,
            sure=sure,
            fates={cell: case.within(cell, size) for cell, size in use.sparable.items()},
            facts=[
                f"targets: {target}; it sends and gets {human(sum(size for _, size in cells))}, across zones "
                f"{human(sum(size for cell, size in cells if cell.crosses))}",
                served.line(spread="over all targets"),
                *([] if served.is_blind else [_OTHERWISE]),
                *_without_target(use),
            ],
            conditions=[
                "a ready target in each zone of the load balancer: it leaves a zone without one",
                "AWS bills this for Network and Gateway Load Balancers, and not for Application Load Balancers",
            ],
            costs=[load_line(load)],
            steps=[
                "aws elbv2 modify-target-group-attributes --target-group-arn ARN "
                "--attributes Key=load_balancing.cross_zone.enabled,Value=false",
                "or, of the AWS Load Balancer Controller, the Service's annotation "
                "service.beta.kubernetes.io/aws-load-balancer-attributes: load_balancing.cross_zone.enabled=false",
            ],
            ready=steps,
        )


def _without_target(use: Use) -> list[str]:
    zones = sorted({cell.client.zone for cell in use.lacking})
    return [f"zones without a ready target: {', '.join(zones)}"] if zones else []


def _stores(case: Case) -> Iterator[Finding]:
    reached: defaultdict[str, dict[Cell, int]] = defaultdict(dict)
    for cell, size in case.cells.items():
        for end, other in (
            (cell.traffic.source, cell.traffic.destination),
            (cell.traffic.destination, cell.traffic.source),
        ):
            if end.kind == "external" and _is_near(end.label, other.region):
                reached[end.label][cell] = size
    for label, cells in sorted(reached.items()):
        users = {
            end.label for cell in cells for end in (cell.traffic.source, cell.traffic.destination) if end.label != label
        }
        service = label.split("/")[2]
        yield Finding(
            kind="public_store",
            title=f"{service} of the own region is reached by its public addresses",
            subject=label,
            # An end point of the route table leaves the addresses as they are: flows cannot tell the two.
            sure="ask",
            fates={},
            elsewhere=sum(cells.values()),
            facts=[f"exchanged with it: {human(sum(cells.values()))}, by {first_few(sorted(users))}"],
            conditions=[
                "the way there is a NAT gateway, which is billed for each GB: see whether the route tables of these "
                "subnets name a prefix list (pl-...); with one, this is done already"
            ],
            costs=["none: a gateway end point is not billed; end points with an address are, by the hour and the GB"],
            steps=[
                f"aws ec2 create-vpc-endpoint --vpc-id VPC --service-name "
                f"com.amazonaws.{label.rpartition('/')[2]}.{service.lower()} --route-table-ids ...",
                *(["images in ECR: their layers come from S3, by the same end point"] if service == "S3" else []),
            ],
        )


def _is_near(label: str, region: str) -> bool:
    """Return whether a name is of a store that a gateway end point of this region leads to."""
    parts = label.split("/")
    return (
        len(parts) == 4 and parts[1] == "aws" and parts[2] in GATEWAY_SERVICES and bool(region) and parts[3] == region
    )
