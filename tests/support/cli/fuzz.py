# SPDX-License-Identifier: Apache-2.0
"""Every flag, variable and key of every command with values that make no sense: python -m tests.support.cli.fuzz DIR

The cases come from the settings classes, so a new flag is a new case. Each runs as a user would run it, through
`cli.main`, in this process: what would reach further (a socket, another process, a file to be written) ends the case
there, and it counts as taken. Prints a JSON object a line for each case that went wrong, and one at the end: how many
cases there were.
"""

import io
import json
import os
import random
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

from pydantic.fields import FieldInfo
from pydantic_settings import CliSettingsSource

from cli.main import COMMANDS, main
from common import settings
from common.flags import FlagParser
from common.settings import ENV_PREFIX, SERVICES
from doctor import command as doctor
from tests.support.settings_reference import what_it_reads

# Of a flag that many commands share, each value is tried with one of them.
HOSTILE = (
    *("", " ", "-", "--", "---", "--help=", "=", ",", ",,", "a,,b", "/", "..", ":", "::", "[]", "[1", "{}", '{"a": 1}'),
    *(
        "null",
        "true",
        "None",
        "inf",
        "-inf",
        "nan",
        "1e309",
        "-1",
        "0",
        "-0",
        "1e400h",
        "0x10",
        "1_000",
        "\uff11\uff12",
    ),
    *(str(2**63), str(2**64), "1" + "0" * 30, "9" * 5_000, f"{'9' * 5_000}h", "9" * 30 + "w", "1e999999999"),
    *("\x00", "a\x00b", "\udcff", "\ud800", "\n", "two\nlines", "\x1b[2J", "\u202e", "=1+1", "%s", "%(prog)s", "{0}"),
    *("now", "now-", "now-9999999999w", "-1h", "0001-01-01", "9999-12-31T23:59:59-23:59", "2026-13-45T99:99", "infh"),
    *("999999 weeks ago", "1MB", "1e3MB", "999999999999PB", "-1MB", "NaNMB", "h", "[::", "::1/999", "10.0.0.0/33"),
    *(
        "127.0.0.1:99999",
        "127.0.0.1:\uff11",
        "http://[",
        "s3://",
        "s3://[",
        "file:///",
        "gs://\x00",
        "~",
        "~nobody/x",
        "a/b/c/d/e",
    ),
    *("*", "[", "(", "\\", "x" * 100_000, "/dev/null", "/proc/self/mem", "/nonexistent/x", "/", "{" * 2_000),
)
TYPED = (
    *("inf", "nan", "-inf", "1e999", "99999999999999999999999", "-1", "true", "1979-05-27", "07:32:00", "[]", "{}"),
    *('""', '"\\u0000"', '"\\u001b"', "[[[[1]]]]", "{a = {b = 1}}", "[1, 'a', 2.0]", '"x"', "'''\nx\n'''"),
)
# Values tried with each setting, unless FUZZ=1 asks for all.
FEW = 2
# The commands that get every file as --config: a service and one that is none.
FIRST = (("run", "enricher"), ("report",))
NONSENSE = (
    *(("--nonsense",), ("--nonsense=1",), ("nonsense", "more", "and more"), ("--",), ("-",), ("-\x00",), ("--\udcff",)),
    *(("--config",), ("--config=",), ("--print-config=3",), ("--print-config", "--", "x"), ("-n", "--", "-n")),
)
STRAY: tuple[tuple[str, ...], ...] = (
    *(("\x00",), ("\udcff",), ("run",), ("run", "\x1b[2J"), ("--",), ("-V", "x"), ("help", "x"), ("",), ("", "")),
    ("run", ""),
)
DEEP = 50_000
FILES: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)),
    "latin": 'title = "caf\xe9"\n'.encode("latin-1"),
    "utf16": 'cluster = "x"\n'.encode("utf-16"),
    "bom": b'\xef\xbb\xbfcluster = "x"\n',
    "nul": b"cluster = 'a\x00b'\n",
    "deep-list": b"x = " + b"[" * DEEP,
    "deep-tables": b"x = " + b"{a=" * DEEP,
    # tomllib takes the square of this; it is still ten times as deep as Python goes.
    "deep-name": b"[" + b".".join([b"a"] * (DEEP // 5)) + b"]\nx = 1\n",
    "deep-json.json": b"[" * DEEP,
    "deep-object.json": b'{"cidr":' * DEEP,
    "long-number": b"x = " + b"9" * 5_000,
    "long-number.json": b'[{"from_ms": ' + b"9" * 5_000 + b"}]",
    "great-float": b'currency = "USD"\nunit = "GB"\n[[price]]\nsource = 1e999999999999\ndestination = nan\n',
    "array.json": b"[1, null, {}, []]",
    "null.json": b"null",
    "surrogate.json": b'[{"name": "\\ud800"}]',
    "cidr": b'[[cidr]]\ncidr = "0.0.0.0/0"\nname = "\\u001b\\u0000"\n',
    "services": b"\n".join(b"[%s]\nx = 1" % name.encode() for name in SERVICES),
    "listen": b"listen = [1]\ncluster = {}\npartitions = inf\n",
}


# Flags that a command needs, besides those that take a directory.
NEEDED_FLAGS = {"older_than": "30d"}
# What a command takes that is no map.
FITTING: dict[tuple[str, ...], str] = {("cidrs", "import"): "subnets.json"}
SUBNETS = {
    "Subnets": [{"SubnetId": "s", "CidrBlock": "10.0.0.0/24", "AvailabilityZone": "eu-west-1a", "VpcId": "v"}],
}


class Taken(BaseException):
    """The command went on to what it is for."""


@dataclass(frozen=True)
class Case:
    """A command line; `names`: of which one stands in the line of a refusal."""

    words: tuple[str, ...]
    argv: tuple[str, ...]
    names: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)


class Door:
    """Ends a case where it would leave this process; armed only while one runs."""

    # Audit events (PEP 578) of what reaches further.
    _OUT = frozenset(
        (
            *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system"),
            *("os.exec", "os.fork", "os.posix_spawn", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link"),
            *("os.symlink", "os.chmod", "os.chown", "os.truncate", "os.kill", "shutil.rmtree", "shutil.copyfile"),
            *("shutil.move", "tempfile.mkstemp", "tempfile.mkdtemp"),
        )
    )
    _WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def __init__(self) -> None:
        self.armed = False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in self._OUT or (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & self._WRITES
            and arguments[0] != os.devnull
        ):
            raise Taken(event)


def cases(directory: Path, thorough: bool, seed: int = 7) -> Iterator[Case]:
    """Yield the cases: flags, variables, keys, files."""
    chance = random.Random(seed)
    paths = _files(directory)
    seen: Counter[tuple[type, str]] = Counter()
    for words, command in COMMANDS.items():
        reads = what_it_reads(words, command)
        fields = reads.settings.model_fields
        flags = {action.dest for action in reads.parser._actions if action.option_strings}
        required = {name: each for name, each in fields.items() if each.is_required()}
        places = {name: each for name, each in required.items() if name not in flags}
        needed = _needed(places, directory / FITTING.get(words, "map.toml"))
        # A directory that is no archive: what is tried is looked at before it is.
        given = {name: NEEDED_FLAGS.get(name, str(directory)) for name in required if name in flags}
        make = Make(words, needed, chance, tuple(places), given)
        for action in reads.parser._actions:
            name = action.dest.removeprefix("CLI_POS_")
            if name not in fields:
                continue
            flag = next((each for each in action.option_strings if each.startswith("--")), "")
            bases = [base for base in reads.settings.__mro__ if name in getattr(base, "model_fields", {})]
            home = bases[-1], name
            # A setting that several commands have is tried with the first, and a little with the second.
            tried = len(HOSTILE) if thorough else (FEW, 1, 0)[min(seen[home], 2)]
            for value in chance.sample(HOSTILE, tried):
                yield make.of(name, flag, value)
            if flag and chance.random() < (1 if thorough else 0.05):
                yield Case(words, (flag,), (name, name.replace("_", "-"), *given))
            if Path in _leaves(fields[name].annotation) or name in ("prices", "archive"):
                for path in paths if thorough or not seen[home] else chance.sample(paths, 1):
                    yield make.of(name, flag, str(path), str(path))
            seen[home] += 1
        for path in [*paths, directory] if thorough or words in FIRST else chance.sample(paths, 1):
            yield Case(words, ("--config", str(path), *make.besides("")), (str(path), *given))
        if words[0] == "run":
            yield from _keys(words, fields, directory, chance)
        for argv in NONSENSE if thorough else chance.sample(NONSENSE, 1):
            yield Case(words, argv, ("",))
    for argv in STRAY:
        yield Case((), argv, ("",))


@dataclass(frozen=True)
class Make:
    """Makes cases of one command.

    `places`: the names of the arguments that it needs, in their order. `given`: values of the flags that it needs.
    """

    words: tuple[str, ...]
    needed: tuple[str, ...]
    chance: random.Random
    places: tuple[str, ...]
    given: dict[str, str]

    def besides(self, name: str) -> tuple[str, ...]:
        """Return what the command needs besides a setting."""
        flags = ((f"--{each.replace('_', '-')}", value) for each, value in self.given.items() if each != name)
        return (*chain.from_iterable(flags), *self.needed)

    def of(self, name: str, flag: str, value: str, *names: str) -> Case:
        """Give a setting a value, in one of the ways there are."""
        names = (*names, name, name.replace("_", "-"), *self.given)
        if not flag:  # which zones are no cloud's is said of both
            at = self.places.index(name)
            given = (*self.needed[:at], value, *self.needed[at + 1 :])
            return Case(self.words, given, (*names, name.upper().replace("_", "-"), "argument", "zone"))
        how = self.chance.choice(("one", "two", "two", "variable"))
        if how == "variable" and not {"\x00", "\ud800"} & set(value):  # which no environment can hold
            return Case(self.words, self.besides(name), names, {f"{ENV_PREFIX}{name.upper()}": value})
        given = (f"{flag}={value}",) if how == "one" else (flag, value)
        return Case(self.words, (*given, *self.besides(name)), names)


def _keys(
    words: tuple[str, ...], fields: dict[str, FieldInfo], directory: Path, chance: random.Random
) -> Iterator[Case]:
    for name in chance.sample(sorted(fields), len(fields) // 3):
        path = directory / f"{words[-1]}-{name}.toml"
        path.write_text(f"[{words[-1]}]\n{name} = {chance.choice(TYPED)}\n")
        yield Case(words, ("--config", str(path)), (name, path.name))


def _needed(places: dict[str, FieldInfo], file: Path) -> tuple[str, ...]:
    """Return arguments that a command needs, besides what is tried."""
    required = [_leaves(each.annotation) for each in places.values()]
    chosen = [next((leaf for leaf in leaves if isinstance(leaf, str)), "eu-west-1a") for leaves in required]
    return tuple(str(file) if Path in leaves else one for leaves, one in zip(required, chosen, strict=True))


def _leaves(annotation: Any) -> list[Any]:
    return [leaf for each in get_args(annotation) for leaf in _leaves(each)] or [annotation]


def _files(directory: Path) -> list[Path]:
    (directory / "map.toml").write_text('[[cidr]]\ncidr = "10.0.0.0/8"\nname = "x"\n')
    (directory / "subnets.json").write_text(json.dumps(SUBNETS))
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    return [directory / name for name in FILES]


class Parsers:
    """Makes the parser of a command's flags once: half of a case's time would be that."""

    def __init__(self) -> None:
        self._made: dict[tuple[type, str], Any] = {}

    def __call__(self, cls: type, *, root_parser: FlagParser, cli_parse_args: list[str]) -> Any:
        """Stand in for `CliSettingsSource`."""
        made = self._made.get((cls, root_parser.prog))
        if made is None:
            made = CliSettingsSource(cls, root_parser=root_parser)
            self._made[cls, root_parser.prog] = made
        return made(args=cli_parse_args)


def run(case: Case, door: Door, parsers: Parsers) -> tuple[Any, str, str]:
    """Run one case; return its exit status or "taken", stdout and stderr."""
    raw = io.BytesIO(), io.BytesIO()
    out, err = io.TextIOWrapper(raw[0], "utf-8"), io.TextIOWrapper(raw[1], "utf-8", "backslashreplace")
    status: Any
    with ExitStack() as stack:
        for place, value in (("stdout", out), ("stderr", err), ("argv", ["zonemeter", *case.words, *case.argv])):
            stack.enter_context(patch.object(sys, place, value))
        stack.enter_context(patch.dict(os.environ, case.env))
        stack.enter_context(patch.object(doctor, "run_checks", _taken))  # they run in threads of their own
        stack.enter_context(patch.object(settings, "CliSettingsSource", parsers))
        door.armed = True
        try:
            status = main()
        except SystemExit as error:
            status = error.code
        except Taken:
            status = "taken"
        except BaseException:  # noqa: BLE001 - whatever a command dies of is what is looked for
            door.armed = False
            status = traceback.format_exc()
        finally:
            door.armed = False
    out.flush()
    err.flush()
    return status, raw[0].getvalue().decode(), raw[1].getvalue().decode()


def _taken(*_: object) -> Any:
    raise Taken("checks")


def wrong(case: Case, status: Any, out: str, err: str) -> str:
    """Return what is wrong with how a case ended, if anything."""
    if status == "taken":
        return ""
    if status not in (0, 1, 2) or "Traceback" in out + err:
        return f"{status}\n{err}"
    if status != 2:
        return ""
    lines = err.splitlines()
    if len(lines) != 1 or not lines[0].startswith(("zonemeter ", "zonemeter: ")):
        return f"not one line: {err[:2000]!r}"
    if len(lines[0]) > 2_000:
        return f"a line of {len(lines[0])} characters: {err[:200]!r}"
    # The last: what was given was taken, and there is no lab here.
    said = (*case.names, "unrecognized arguments", "argument -h/--help", "run zonemeter lab up")
    return "" if any(name in lines[0] for name in said) else f"names none of {case.names}: {err[:500]!r}"


def fuzz(directory: Path) -> None:
    """Run all cases."""
    door, parsers, count = Door(), Parsers(), 0
    for case in cases(directory, bool(os.environ.get("FUZZ"))):
        count += 1
        if problem := wrong(case, *run(case, door, parsers)):
            argv = [*case.words, *(each[:80] for each in case.argv)]
            env = {name: value[:80] for name, value in case.env.items()}
            _say({"argv": argv, "env": env, "problem": problem})
    _say({"cases": count})


def _say(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")  # noqa: TID251 - read by the test
    sys.stdout.flush()


if __name__ == "__main__":
    fuzz(Path(sys.argv[1]))
