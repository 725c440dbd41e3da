# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run audit`: wiring only."""

from audit.service import Auditor
from audit.settings import AuditServiceSettings
from common.entry_point import entry_point
from common.service import lifecycle


@entry_point("run audit", AuditServiceSettings)
def main(settings: AuditServiceSettings) -> int:
    """Run the audit until told to stop; return the exit status."""
    return lifecycle.run("audit", settings, lambda running: Auditor(running, settings).run())
