# SPDX-License-Identifier: Apache-2.0
"""The CIDR map that a user of the lab's cluster would write: what lies outside of it and yet in a zone. Pure."""

from lab.plan import Plan


def cidr_map(plan: Plan) -> dict[str, list[dict[str, str]]]:
    """Return the map for the plan: its managed services and Kafka, each in its zone."""
    first = plan.nodes[0]
    region_of = {node.zone: node.region for node in plan.nodes}
    entries = [{"cidr": f"{plan.control_v4}/32", "name": "kafka", "zone": first.zone, "region": first.region}]
    for outside in plan.outsides:
        if outside.zone:
            where = {"name": outside.name, "zone": outside.zone, "region": region_of[outside.zone]}
            entries += [{"cidr": cidr} | where for cidr in (outside.cidr_v4, outside.cidr_v6)]
    return {"cidr": entries}
