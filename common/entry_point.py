# SPDX-License-Identifier: Apache-2.0
"""What every command and service begins and ends with: its settings are read, and what stops it is one line.

    @entry_point("report", ReportSettings)
    def main(settings: ReportSettings) -> int:

`main(argv)` then returns the exit status: what the function returns, 1 for `Nothing`, 130 after Ctrl-C; or exits with 2
on a `Refusal`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from common.errors import Nothing, Refusal
from common.flags import refuse
from common.settings import S, load
from common.terminal import complain

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class EntryPoint(Generic[S]):
    """One of them. `words`: what is typed after `zonemeter`."""

    words: str
    settings: type[S]
    run: Callable[[S], int]

    def __call__(self, argv: list[str]) -> int:
        """Read the settings and run it."""
        prog, settings = f"zonemeter {self.words}", load(self.settings, self.words, argv)
        try:
            return self.run(settings)
        except Refusal as error:
            refuse(prog, str(error))
        except Nothing as nothing:
            complain(f"{prog}: {nothing}")
            return 1
        except KeyboardInterrupt as interrupt:
            complain(f"{prog}: {str(interrupt) or 'interrupted'}")
            return INTERRUPTED


def entry_point(words: str, settings: type[S]) -> Callable[[Callable[[S], int]], EntryPoint[S]]:
    """Make a function of its settings an entry point."""
    return lambda run: EntryPoint(words, settings, run)
