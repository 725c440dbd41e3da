# SPDX-License-Identifier: Apache-2.0
"""How a command's flags are shown (`--help`), and how wrong ones are refused: in one line."""

import argparse
import re
import sys
from collections.abc import Collection
from typing import NoReturn

from common.terminal import complain

# What is shown in the place of a Python type's name.
_VALUES = {
    "str": "TEXT",
    "int": "NUMBER",
    "float": "NUMBER",
    "Path": "PATH",
    "ByteSize": "BYTES",
    "list[str]": "TEXT[,TEXT]",
    "list[int]": "NUMBER[,NUMBER]",
}
# A default that says nothing: what happens without the flag stands in the description where it matters.
_NO_DEFAULT = re.compile(r"\s*\(default( factory)?: (None|False|\[\]|default_\w+|)\)$")
_BYTES = re.compile(r"\(default: (\d+)\)$")


class FlagParser(argparse.ArgumentParser):
    """Shows a command's own flags before those that all commands share; says what is wrong without the usage."""

    def __init__(self, prog: str, description: str | None, shared: Collection[str], epilog: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, epilog=epilog)
        self._shared = shared

    def error(self, message: str) -> NoReturn:
        """End with exit status 2 and one line."""
        refuse(self.prog, f"{message}; {self.prog} --help lists the flags")

    def format_help(self) -> str:
        """Return the text of --help."""
        for action in self._actions:
            action.help = _NO_DEFAULT.sub("", action.help or "")
            if action.metavar == "ByteSize":
                action.help = _BYTES.sub(lambda found: f"(default: {int(found[1]) >> 20}MiB)", action.help)
            action.metavar = _VALUES.get(str(action.metavar), action.metavar)
        places = [action for action in self._actions if not action.option_strings]
        flags = [action for action in self._actions if action.option_strings]
        formatter = self._get_formatter()
        names = " ".join(str(action.metavar or action.dest) for action in places)
        formatter.add_text(f"usage: {self.prog} [FLAGS]{names and ' ' + names}")
        formatter.add_text(self.description)
        for title, actions in (
            ("arguments", places),
            ("flags", [action for action in flags if action.dest not in self._shared]),
            ("common flags", [action for action in flags if action.dest in self._shared]),
        ):
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


def refuse(prog: str, line: str) -> NoReturn:
    """End with exit status 2 and one line."""
    complain(f"{prog}: {line}")
    sys.exit(2)
