# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run audit`: wiring only."""

import contextlib

from audit.service import Auditor
from audit.settings import AuditServiceSettings
from common.entry_point import entry_point
from common.errors import Stopped
from common.service import lifecycle
from common.service.running import Service


@entry_point("run audit", AuditServiceSettings)
def main(settings: AuditServiceSettings) -> int:
    """Run the audit until told to stop; return the exit status."""

    async def body(running: Service) -> None:
        with contextlib.suppress(Stopped):
            await Auditor(running, settings).run()

    return lifecycle.run("audit", settings, body)
