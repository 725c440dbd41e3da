# SPDX-License-Identifier: Apache-2.0
"""Finds the command that was asked for and hands the rest of the line to it.

A command's module is imported only when it is run: a collector must not carry the enricher's imports.
"""

import difflib
import errno
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

from common import page
from common.terminal import complain, say


class Command(NamedTuple):
    """Where a command lives (`module:function`, taking the rest of the arguments) and what it does."""

    target: str
    summary: str


COMMANDS: dict[tuple[str, ...], Command] = {
    ("run", "collector"): Command("collector.main:main", "count on this node, publish raw windows"),
    ("run", "enricher"): Command("enricher.main:main", "name both ends of every flow, as of its own time"),
    ("run", "metrics"): Command("sinks.metrics.main:main", "export Prometheus metrics"),
    ("run", "flowlog"): Command("sinks.flowlog.main:main", "write flow logs: JSON lines or Parquet"),
    ("run", "audit"): Command("audit.main:main", "reconcile the ledger all the time, serve the result"),
    ("top",): Command("cli.top:main", "a live table per window: zones, pairs, what is unknown"),
    ("audit",): Command("history.audit.command:main", "reconcile the ledger: is every byte accounted for?"),
    ("report",): Command("history.report.command:main", "what crossed zones, who sent it to whom, and what it costs"),
    ("bill",): Command(
        "history.bill.command:main", "what was metered beside what the cloud bills for it, and why they differ"
    ),
    ("advise",): Command("history.advise.command:main", "what to change so that less crosses zones, and what it saves"),
    ("changes",): Command("history.changes.command:main", "what changed in the cluster, and what crosses zones since"),
    ("replay",): Command("history.replay.command:main", "read the flows of any time range again, filtered"),
    ("archive", "compact"): Command(
        "history.upkeep.command:main", "rewrite the flow log's many small files as few, sorted ones an hour"
    ),
    ("archive", "erase-addresses"): Command(
        "history.upkeep.command:erase", "take people's addresses out of the flow log's older flows"
    ),
    ("archive", "expire"): Command("history.upkeep.command:expire", "delete hours of the flow log that are too old"),
    ("archive", "iceberg"): Command(
        "history.upkeep.iceberg.command:main", "publish the flow log as an Apache Iceberg table, for other engines"
    ),
    ("prices", "list"): Command("prices.command:list_", "the price files that come with zonemeter: dates and sources"),
    ("prices", "check"): Command("prices.command:check", "check a price file of your own"),
    ("prices", "explain"): Command(
        "prices.command:explain", "how traffic between two zones is priced, and who is billed"
    ),
    ("doctor",): Command("doctor.command:main", "what is wrong with this node or the pipeline, and what to do"),
    ("dead-letters", "list"): Command("history.dead_letters:main", "what could not be decoded, and why"),
    ("cidrs", "check"): Command("history.cidrs.command:check", "try a CIDR map on history, say what looks wrong"),
    ("cidrs", "suggest"): Command("history.cidrs.command:suggest", "the networks that no CIDR map names, by bytes"),
    ("cidrs", "import"): Command(
        "history.cidrs.imports:import_", "make a CIDR map from what a cloud says about its networks"
    ),
    ("topics", "list"): Command("cli.topics:list_", "the topics as they are"),
    ("topics", "diff"): Command("cli.topics:diff", "what differs from what is expected; exit 1 if anything does"),
    ("topics", "apply"): Command("cli.topics:apply", "create the missing topics"),
    ("detach",): Command("collector.host.detach:main", "remove zonemeter's links, programs and maps from this node"),
    ("lab", "up"): Command("cli.lab:up", "a cluster of network namespaces with Kafka and all services"),
    ("lab", "down"): Command("cli.lab:down", "take a lab down and leave nothing behind"),
    ("lab", "status"): Command("cli.lab:status", "what is running of a lab"),
    ("lab", "traffic"): Command("cli.lab:traffic", "send real TCP and UDP between a lab's pods"),
    ("lab", "synth"): Command("cli.lab:synth", "publish windows of a made-up cluster of any size"),
    ("demo",): Command("cli.demo:main", "the lab, its traffic, a live table, and the audit at the end"),
}

WRONG_USE = 2
# What not every image has, by the one that has it: it is imported by those commands only that need it.
IN_IMAGE = {
    "kubernetes_asyncio": "zonemeter",
    **dict.fromkeys(("botocore", "duckdb", "jinja2", "markupsafe", "obstore", "pyarrow"), "zonemeter-history"),
}
ASKS_HELP = ("-h", "--help", "help")
ASKS_VERSION = ("-V", "--version")


# What a disk says that takes no more.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> int:
    """Run the command line; return its exit status."""
    arguments = sys.argv[1:]
    if _stand_in_for_closed() and arguments[:1] != ["run"]:
        complain("zonemeter: the output cannot be written: stdout is closed")
        return WRONG_USE
    if len(arguments) == 1 and arguments[0] in ASKS_VERSION:
        return _guarded("zonemeter", _say_version)
    if not arguments or arguments[0] in ASKS_HELP:
        return _guarded("zonemeter", lambda: _show_help(None, 0 if arguments else WRONG_USE))
    for length in (2, 1):
        words = tuple(arguments[:length])
        command = COMMANDS.get(words)
        if command is not None:
            call = partial(_run, command, arguments[length:])
            # A service says for itself what it dies of.
            return _guarded("" if words[0] == "run" else f"zonemeter {' '.join(words)}", call)
    if len(arguments) == 2 and arguments[1] in ASKS_HELP and any(words[0] == arguments[0] for words in COMMANDS):
        return _guarded("zonemeter", lambda: _show_help(arguments[0], 0))
    complain(f"zonemeter: {_unknown(arguments)}")
    return WRONG_USE


def _guarded(prog: str, call: Callable[[], int]) -> int:
    """Call a command; say in one line that its output could not be written, if it has a name to say it under."""
    try:
        status = call()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if error.name not in IN_IMAGE:
            raise
        complain(f"{prog or 'zonemeter'}: {error.name} is not installed here; the image {IN_IMAGE[error.name]} has it")
        return WRONG_USE
    except BrokenPipeError:
        _mute()  # the reader (`| head`) has what it wanted
        return 0
    except OSError as error:
        if not prog or error.errno not in UNWRITABLE:
            raise
        _mute()
        complain(f"{prog}: the output cannot be written: {error.strerror}")
        return WRONG_USE
    return status


def _stand_in_for_closed() -> bool:
    """Open what of stdin, stdout and stderr was closed (`>&-`), so that no socket gets its number; tell of stdout."""
    closed = [number for number in range(3) if not _is_open(number)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # POSIX: the lowest number that is free
    if 1 in closed:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if 2 in closed:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as above
    return 1 in closed


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _say_version() -> int:
    say(f"zonemeter {version('zonemeter')}")
    return 0


def _mute() -> None:
    """Let nothing more be written: Python must not complain at exit about what it still holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: Command, rest: list[str]) -> int:
    module, _, name = command.target.partition(":")
    # A command says in one line of its own what went wrong; a service configures logging for itself.
    logging.basicConfig(level=logging.CRITICAL)
    with _loading():
        function: Callable[[list[str]], int] = getattr(importlib.import_module(module), name)
    with page.laid_out(page.terminal_width()):
        return function(rest)


def _show_help(group: str | None, status: int) -> int:
    say(*_help(group))
    return status


@contextmanager
def _loading() -> Iterator[None]:
    """End at once on Ctrl-C while modules load: nothing is at stake yet, and orjson's start dies of an exception."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as by a shell's background jobs
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _help(group: str | None) -> list[str]:
    """List the commands; with a group, such as `run`, its commands."""
    shown = {" ".join(words): each.summary for words, each in COMMANDS.items() if group in (None, words[0])}
    width = max(map(len, shown))
    return [
        "zonemeter: which workloads pay for traffic between availability zones, why, and what to change",
        "",
        *(f"  zonemeter {words:<{width}}  {summary}" for words, summary in shown.items()),
        "",
        "zonemeter COMMAND --help shows a command's flags; zonemeter --version the version.",
    ]


def _unknown(arguments: list[str]) -> str:
    groups = sorted({words[0] for words in COMMANDS})
    word = arguments[0]
    below = sorted(words[1] for words in COMMANDS if words[0] == word and len(words) > 1)
    if below:
        return f"{word} what? one of: {', '.join(below)}"
    near = difflib.get_close_matches(word, groups, n=1)
    return f"no command {word!r}" + (f"; did you mean {near[0]}?" if near else f"; one of: {', '.join(groups)}")
