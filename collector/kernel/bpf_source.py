# SPDX-License-Identifier: Apache-2.0
"""The C sources as bcc wants them: one text.

bcc rewrites maps' methods (`flows0.lookup(key)`) only in the text that it is given, not in what that includes; a
program whose maps are used in a header is refused by the kernel ("unknown opcode 8d"). So headers are put in here.
"""

import re
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "bpf"

_INCLUDE = re.compile(r'#include "([a-z_]+\.h)"\s*')


def read(name: str) -> str:
    """Return the text of a source file with each of zonemeter's headers in its place, once, where first asked for.

    Line markers keep the compiler's messages true to the files.
    """
    return "\n".join(_expand(name, set())) + "\n"


def _expand(name: str, seen: set[str]) -> list[str]:
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((SOURCES / name).read_text().splitlines(), 1):
        included = _INCLUDE.fullmatch(line)
        if included is None:
            lines.append("" if line == "#pragma once" else line)
        elif included[1] not in seen:
            seen.add(included[1])
            lines += [*_expand(included[1], seen), f'#line {number + 1} "{name}"']
        else:
            lines.append("")
    return lines
