# SPDX-License-Identifier: Apache-2.0
"""How advice is followed: what is applied, and the command that shows whether it helped. Pure."""

from shlex import quote

import yaml

from common.terminal import command
from history.advise.advice import Advised
from history.report.data import Report
from schemas.flow import KINDS

APPLY = "kubectl apply --server-side --field-manager zonemeter --dry-run=server -f -"


def manifests(each: Advised) -> list[str]:
    """Return the change as YAML: names are data, whatever is in them."""
    documents = yaml.safe_dump_all(each.finding.manifests, sort_keys=False, allow_unicode=False, width=200)
    return str(documents).rstrip("\n").split("\n") if each.finding.manifests else []


def verification(report: Report, each: Advised) -> str:
    """Return the command that shows whether it helped, a day after the change."""
    label = each.finding.subject.rpartition(":")[0] or each.finding.subject
    namespace = label.partition("/")[0]
    in_namespace = label.count("/") == 2 and namespace not in KINDS
    narrow = f"-n {quote(namespace)}" if in_namespace else f"--workload {quote(label)}"
    return command(f"report --since 24h --compare 7d {narrow}{report.priced_flags}{report.kafka_flags}")
