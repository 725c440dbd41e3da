# SPDX-License-Identifier: Apache-2.0
"""What advice prints can be applied to the lab, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest

from lab.apply import applied
from lab.errors import LabError
from lab.stories import found, mended

CLOSE = {
    "kind": "Service",
    "metadata": {"namespace": "shop", "name": "postgres-read"},
    "spec": {"trafficDistribution": "PreferClose"},
}
STOP = {
    "kind": "StatefulSet",
    "metadata": {"namespace": "monitoring", "name": "prometheus-b"},
    "spec": {"replicas": 0},
}


def test_both_changes_make_the_mended_story() -> None:
    assert replace(applied(found(), [CLOSE, STOP]), story="mended") == mended()


@pytest.mark.parametrize(
    ("manifest", "change"),
    [
        (CLOSE, {"metadata": {"namespace": "shop", "name": "nobody"}}),
        (CLOSE, {"spec": {"externalTrafficPolicy": "Local"}}),
        (CLOSE, {"spec": {"trafficDistribution": "PreferSameNode"}}),
        (STOP, {"kind": "Deployment"}),
        (STOP, {"spec": {"replicas": 1}}),
        (STOP, {"kind": "DaemonSet"}),
    ],
)
def test_what_the_lab_cannot_do_is_refused(manifest: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(LabError):
        applied(found(), [manifest | change])
