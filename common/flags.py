# SPDX-License-Identifier: Apache-2.0
"""How a command's flags are shown (`--help`), and how wrong ones are refused: in one line."""

import argparse
import difflib
import re
import sys
from collections.abc import Collection
from typing import Any, NoReturn

from pydantic import ByteSize

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


_UNKNOWN_FLAG = re.compile(r"unrecognized arguments: (--[^\s=]+)")
# Taken before a command's own flags are looked at.
_OF_EACH = ("--config", "--print-config")


class FlagParser(argparse.ArgumentParser):
    """Shows a command's own flags before those that all commands share; says what is wrong without the usage."""

    def __init__(self, prog: str, *, shared: Collection[str] = (), **options: Any) -> None:
        super().__init__(prog=prog, allow_abbrev=False, **options)
        self._shared = shared

    def error(self, message: str) -> NoReturn:
        """End with exit status 2 and one line."""
        refuse(self.prog, f"{message}; {self._meant(message)}{self.prog} --help lists the flags")

    def _meant(self, message: str) -> str:
        """Return a hint at the flag whose name is nearest to one that does not exist, if any is near."""
        unknown = _UNKNOWN_FLAG.match(message)
        near = unknown and difflib.get_close_matches(unknown[1], [*self._option_string_actions, *_OF_EACH], n=1)
        return f"did you mean {near[0]}? " if near else ""

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse "--" as a flag's value: argparse takes it for the end of the flags and hands on an empty list."""
        if action.option_strings and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "expected a value, not --")
        return super()._get_values(action, arg_strings)

    def format_help(self) -> str:
        """Return the text of --help."""
        for action in self._actions:
            action.help = _NO_DEFAULT.sub("", action.help or "")
            if action.metavar == "ByteSize":
                action.help = _BYTES.sub(lambda found: f"(default: {size_text(int(found[1]))})", action.help)
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


def size_text(size: int) -> str:
    """Return bytes as a setting takes them: 64MiB, 0B."""
    return ByteSize(size).human_readable().replace(".0", "")


def refuse(prog: str, line: str) -> NoReturn:
    """End with exit status 2 and one line."""
    complain(f"{prog}: {line}")
    sys.exit(2)
