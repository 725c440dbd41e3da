# SPDX-License-Identifier: Apache-2.0
"""`zonemeter detach`: remove every link, program and map of zonemeter's from this node, and nothing else."""

import os
from pathlib import Path

from pydantic import Field

from collector.attach import tc
from collector.host import locks, preflight
from collector.kernel import pins
from collector.settings import CollectorSettings
from common.entry_point import entry_point
from common.errors import Refusal
from common.settings import Settings
from common.terminal import say


def remove_all(root: Path) -> None:
    """Remove everything of zonemeter's, tc filters too; raise `LoadError` if those are in another network namespace."""
    tc.detach(root)
    pins.detach(root)


def check_ours(root: Path) -> None:
    """Raise `Refusal` unless there is nothing there, or a pin directory with what zonemeter pins and no more."""
    if not os.path.lexists(root):
        return
    if not root.is_dir():
        raise Refusal(f"pin_dir = {str(root)!r}: not a directory; nothing was removed")
    if not preflight.is_bpffs(root):  # nor is the root of one beneath itself
        raise Refusal(
            f"pin_dir = {str(root)!r}: expected a directory on a bpffs, such as {preflight.BPFFS}/zonemeter; "
            "nothing was removed"
        )
    if strangers := pins.strangers(root):
        raise Refusal(
            f"pin_dir = {str(root)!r}: {', '.join(map(repr, strangers[:3]))} in it is not zonemeter's; is it the "
            "directory that the collector was given? Nothing was removed"
        )


class DetachSettings(Settings):
    """Stop counting on this node and remove every link, program and map of zonemeter's.

    What the kernel holds and no collector has published is given up.
    """

    pin_dir: Path = Field(CollectorSettings.model_fields["pin_dir"].default, description="the collector's --pin-dir")


@entry_point("detach", DetachSettings)
def main(wanted: DetachSettings) -> int:
    """Detach; exit status 2 if a collector is at work there or it cannot be done."""
    try:
        check_ours(wanted.pin_dir)
        pinned = sum(1 for path in wanted.pin_dir.rglob("*") if not path.is_dir())
        with locks.pin_directory(wanted.pin_dir, make=False):
            remove_all(wanted.pin_dir)
    except OSError as error:
        raise Refusal(str(error)) from error
    said = f"removed {pinned} links, programs and maps" if pinned else "nothing of zonemeter was there"
    say(f"{wanted.pin_dir}: {said}")
    return 0
