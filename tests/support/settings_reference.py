# SPDX-License-Identifier: Apache-2.0
"""Writes docs/settings.md from the settings classes: `python -m tests.support.settings_reference >docs/settings.md`.

Each command names its settings (common/entry_point.py), so one that is new in the table is new in the document.
"""

import argparse
import importlib
import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo
from pydantic_settings import CliSettingsSource

from cli.main import COMMANDS, Command
from common.entry_point import EntryPoint
from common.flags import size_text
from common.settings import ENV_PREFIX, KafkaSettings, ServiceSettings, Settings, flags_of, flags_of_each

HEAD = """# Settings

Every setting of every service and command. This file is written by `make docs` from the code and checked against it
by a test; do not edit it.

A setting is looked for in this order; the first place that has it wins:

1. the flag, such as `--map-memory 128MiB`;
2. the variable, `ZONEMETER_` and the name in capitals, such as `ZONEMETER_MAP_MEMORY=128MiB`;
3. the TOML file that `--config FILE` names. Its top-level keys are for all services, and only those listed under
   *Kafka* and *Services* below may stand there; the tables `[collector]`, `[enricher]`, `[metrics]`, `[flowlog]`
   and `[audit]` hold what is one service's own. Keys are the names with underscores;
4. the default.

`--print-config` prints what is in force, as JSON, and ends. A value that makes no sense, a flag or a key that does not
exist: one line that names it, and exit status 2. Secrets are files, never values: `kafka_sasl_password_file`,
`kafka_sasl_token_file`, `kafka_ssl_key_file`.

Sizes are bytes, with a unit or without: `1MB` is 10^6, `1MiB` 2^20. Each service serves its metrics on a port of its
own, so that all can run on one host.

A variable is read by every command that has a setting of that name. Set those of one service in its own unit or pod,
not for a whole shell: `ZONEMETER_OUTPUT`, say, is a directory to the flow log and a format to `zonemeter audit`.

```toml
cluster = "prod-eu"
kafka_bootstrap = "kafka-0.kafka:9092,kafka-1.kafka:9092"

[collector]
map_memory = "128MiB"

[flowlog]
output = "s3://traffic/zonemeter"
```
"""

_UNITS = {
    "_seconds": "s",
    "_hours": "h",
    "_ms": "ms",
    "_rows": "rows",
    "_series": "series",
    "_file": "path",
    "_dir": "path",
}
_TITLES = ("flag", "variable", "default", "unit or values", "what it is, and why")


@dataclass(frozen=True, slots=True)
class Reads:
    """What a command reads."""

    command: tuple[str, ...]
    summary: str
    settings: type[Settings]
    parser: argparse.ArgumentParser


def what_it_reads(words: tuple[str, ...], command: Command, argv: Sequence[str] | None = None) -> Reads:
    """Return what a command reads, with the parser of its flags.

    `argv` that it does not take end in `SystemExit`, as they would for a user.
    """
    module, _, name = command.target.partition(":")
    found: EntryPoint[Settings] = getattr(importlib.import_module(module), name)
    parser, _ = flags_of(found.settings, found.words)
    if argv is not None:
        parser.parse_args(flags_of_each(found.words).parse_known_args(list(argv))[1])
    return Reads(words, command.summary, found.settings, parser)


def reference() -> str:
    """Return the document."""
    all_reads = [what_it_reads(words, command) for words, command in COMMANDS.items()]
    parts = [HEAD]
    parts.append("## Kafka\n\nRead by every service, and by every command that reads Kafka.\n")
    parts.append(_table(KafkaSettings, KafkaSettings.model_fields))
    own = [name for name in ServiceSettings.model_fields if name not in (*KafkaSettings.model_fields, "listen")]
    parts.append("## Services\n\nRead by the five services, besides those for Kafka.\n")
    parts.append(_table(ServiceSettings, own))
    for _, alike in itertools.groupby(all_reads, lambda reads: reads.settings):
        parts += _section(list(alike))
    return "\n".join(parts)


def _section(alike: list[Reads]) -> Iterator[str]:
    """Yield the parts about commands that read the same."""
    reads = alike[0]
    group, name = reads.command[:-1], reads.command[-1]
    names = ", ".join([name, *(each.command[-1] for each in alike[1:])])
    yield f"## zonemeter {' '.join((*group, names))}\n"
    if len(alike) == 1:
        yield f"{_sentence(reads.summary)}\n"
    else:
        yield "".join(f"- `{each.command[-1]}`: {each.summary}\n" for each in alike)
    base = next((c for c in (ServiceSettings, KafkaSettings) if issubclass(reads.settings, c)), None)
    if base is not None:
        more = "*Kafka* and *Services*" if base is ServiceSettings else "*Kafka*"
        yield f"Also reads what stands under {more}.\n"
    inherited = base.model_fields if base else {}
    fields = reads.settings.model_fields
    own = [
        name
        for name in fields
        if name not in inherited
        or not _same(fields[name], inherited[name])
        or (base is ServiceSettings and name == "listen")
    ]
    yield _table(reads.settings, own) if own else "Nothing of its own.\n"


def _same(one: FieldInfo, other: FieldInfo) -> bool:
    return (one.default, one.description, one.annotation) == (other.default, other.description, other.annotation)


def _table(cls: type[Settings], names: Iterable[str]) -> str:
    parser = argparse.ArgumentParser(add_help=False)
    CliSettingsSource(cls, root_parser=parser, cli_parse_args=False)
    flags = {action.dest: action.option_strings or [name_of(action)] for action in parser._actions}
    return _rows([_row(name, cls.model_fields[name], flags[name]) for name in names])


def name_of(action: argparse.Action) -> str:
    """Return the name of a positional argument."""
    return str(action.metavar or action.dest).upper()


def _row(name: str, field: FieldInfo, flags: Sequence[str]) -> tuple[str, ...]:
    return (
        ", ".join(
            f"`{flag}`" for flag in sorted(flags, key=lambda flag: (not flag.startswith("--"), flags.index(flag)))
        ),
        f"`{ENV_PREFIX}{name.upper()}`",
        _default(field),
        _unit(name, field),
        field.description or "",
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    if field.default_factory is not None:
        made = inspect.getdoc(field.default_factory) or ""
        return made.partition(",")[0].partition(".")[0].removeprefix("Return ")
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, ByteSize):
        return f"`{size_text(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if str(value) else "empty"


def _unit(name: str, field: FieldInfo) -> str:
    kinds = _leaves(field.annotation)
    if bool in kinds:
        return "switch"
    if choices := [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]:
        return ", ".join(f"`{choice}`" for choice in choices)
    if ByteSize in kinds:
        return "bytes, such as `64MiB`"
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    if not unit:
        unit = "path" if Path in kinds else "number" if {int, float} & set(kinds) else "text"
    return unit + _bounds(field)


def _leaves(annotation: Any) -> list[Any]:
    """Return the types that an annotation is a union of."""
    inside = [] if get_origin(annotation) is Literal else get_args(annotation)
    return [leaf for each in inside for leaf in _leaves(each)] or [annotation]


def _bounds(field: FieldInfo) -> str:
    known = {sign: getattr(rule, sign) for rule in field.metadata for sign in ("gt", "ge", "le") if hasattr(rule, sign)}
    words = [
        f"{said} {known[sign]:,.12g}" for sign, said in (("gt", "above"), ("ge", "from"), ("le", "to")) if sign in known
    ]
    return f", {' '.join(words)}" if words else ""


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    lines = [_TITLES, ("---",) * len(_TITLES), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


if __name__ == "__main__":
    sys.stdout.write(reference())
