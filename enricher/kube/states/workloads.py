# SPDX-License-Identifier: Apache-2.0
"""Whose a pod is: the controller at the top, as far as the pod itself tells. Pure."""

import re
import sys

from enricher.kube.states.fields import is_name, milliseconds
from enricher.kube.states.objects import Metadata, Owner, Pod
from schemas.flow import Workload

# The label that carries a ReplicaSet's template hash, by whose it is. Argo Rollouts has ReplicaSets too, and a label
# of its own (https://argo-rollouts.readthedocs.io/en/stable/features/specification/).
TEMPLATE_HASH_LABELS = {"Deployment": "pod-template-hash", "Rollout": "rollouts-pod-template-hash"}
# OpenShift writes the DeploymentConfig into the pods of its ReplicationController, named config-version, and into the
# pods that roll it out, which carry the label (github.com/openshift/api, apps/v1/consts.go).
DEPLOYMENT_CONFIG_ANNOTATION = "openshift.io/deployment-config.name"
DEPLOYER_LABEL = "openshift.io/deployer-pod-for.name"
# A CronJob's Job is named after its scheduled minute. A pod of it comes no sooner (but for whole seconds), and may come
# this much later: Jobs wait for a quota or a start deadline, run on for days, and try again.
CRON_JOB_DAYS = 31
# The kubelet puts it on the API's copy of a static pod, which it runs from a file.
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"


def workload_of(pod: Pod) -> Workload:
    """Return the controller at the top, as far as the pod itself tells: no further objects are read.

    A ReplicaSet whose name ends in the pod's template hash belongs to the Deployment or Rollout named before it
    (controller `deployment`: name-hash). A Job of a CronJob ends in its scheduled minute (controller `cronjob`,
    `getTimeHashInMinutes`: name-minutes since the epoch); one that ends in another number, a date for instance, does
    not, and is its own. A pod without a controller is its own; so is a static pod, named as in its file: the kubelet
    appends the node's name. Of an owner the API server asks only that its name is not empty: one that no object could
    have (a name stands in every flow, and may be 200 kB) is none.
    """
    meta = pod.metadata
    if MIRROR_ANNOTATION in (meta.annotations or {}):
        return _workload("Pod", meta.name.removesuffix(f"-{pod.spec.node_name}"))
    owner = controller_of(meta)
    if owner is not None and not can_be(owner):
        return _workload("Pod", meta.name)
    if (config := _deployment_config(meta, owner)) is not None:
        return _workload("DeploymentConfig", config)
    if owner is None:
        return _workload("Pod", meta.name)
    if owner.kind == "ReplicaSet":
        for kind, label in TEMPLATE_HASH_LABELS.items():
            hash_ = (meta.labels or {}).get(label)
            if hash_ and owner.name.endswith(f"-{hash_}"):
                return _workload(kind, owner.name.removesuffix(f"-{hash_}"))
    if owner.kind == "Job" and (cron_job := _cron_job(pod, owner.name)) is not None:
        return _workload("CronJob", cron_job)
    return _workload(owner.kind, owner.name)


def controller_of(meta: Metadata) -> Owner | None:
    """Return the owner that controls an object."""
    return next((owner for owner in meta.owner_references or () if owner.controller), None)


def can_be(owner: Owner) -> bool:
    """Return whether an object can have this name and kind."""
    return is_name(owner.name) and is_name(owner.kind)


def _deployment_config(meta: Metadata, owner: Owner | None) -> str | None:
    config = (meta.annotations or {}).get(DEPLOYMENT_CONFIG_ANNOTATION)
    if not config:
        return None
    if owner is None:
        deployment = (meta.labels or {}).get(DEPLOYER_LABEL, "")
    else:
        deployment = owner.name if owner.kind == "ReplicationController" else ""
    name, _, version = deployment.rpartition("-")
    return config if name == config and version.isdecimal() else None


def _cron_job(pod: Pod, job: str) -> str | None:
    named = re.fullmatch(r"(.+)-([0-9]{8})", job)
    created_ms = milliseconds(pod.metadata.creation_timestamp) or milliseconds(pod.status.start_time)
    if named is None or created_ms is None:
        return None
    late = created_ms // 60_000 - int(named[2])
    return named[1] if -1 <= late <= CRON_JOB_DAYS * 24 * 60 else None


def _workload(kind: str, name: str) -> Workload:
    return Workload(sys.intern(kind), sys.intern(name))
