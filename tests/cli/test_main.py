# SPDX-License-Identifier: Apache-2.0
"""`zonemeter` without a whole command: what it lists, and with which exit status."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from cli.main import COMMANDS, IN_IMAGE, main
from tests.support.settings_reference import what_it_reads


def said(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["zonemeter", *arguments])
    status = main()
    return status, *capsys.readouterr()


ZONEMETER = [sys.executable, "-m", "cli"]
GROUPS = sorted({words[0] for words in COMMANDS if len(words) > 1})


def test_without_what_reads_parquet_the_services_run_and_other_commands_say_so() -> None:
    lacking = f"import sys; sys.modules |= dict.fromkeys({[*IN_IMAGE]})\n"
    loading = "import importlib; from cli.main import COMMANDS\n"
    loading += "for words, command in COMMANDS.items():\n"
    loading += "    try: importlib.import_module(command.target.partition(':')[0])\n"
    loading += "    except ModuleNotFoundError: print(*words)\n"
    done = subprocess.run([sys.executable, "-c", lacking + loading], capture_output=True, text=True)
    assert done.stderr == ""
    kept = [" ".join(words) for words in COMMANDS if " ".join(words) not in done.stdout.splitlines()]
    assert {
        "run collector",
        "run enricher",
        "run metrics",
        "run audit",
        "audit",
        "doctor",
        "topics apply",
        "detach",
    } <= set(kept)
    asking = "sys.argv = ['zonemeter', 'report']; from cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", lacking + asking], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    said = r"zonemeter report: \w+ is not installed here; the image zonemeter-history has it\n"
    assert re.fullmatch(said, done.stderr)
    asking = "sys.argv = ['zonemeter', 'run', 'enricher']; from cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", lacking + asking], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "zonemeter: kubernetes_asyncio is not installed here; the image zonemeter has it\n"


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_lists_its_commands(
    group: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said([group, "--help"], monkeypatch, capsys)
    assert (status, err) == (0, "")
    listed = [line.split()[1] for line in out.splitlines() if line.startswith("  zonemeter ")]
    assert set(listed) == {group}
    for words, command in COMMANDS.items():
        assert (f"zonemeter {' '.join(words)} " in out and command.summary in out) == (words[0] == group)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cidrs"], "zonemeter: cidrs what? one of: check, import, suggest\n"),
        (["cidrs", "chek"], "zonemeter: cidrs what? one of: check, import, suggest\n"),
        (["reprot"], "zonemeter: no command 'reprot'; did you mean report?\n"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(arguments, monkeypatch, capsys) == (2, "", line)


SLOW_MODULE = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException as error:
    print("an exception came while modules were loaded:", type(error).__name__)
def main(rest):
    return 0
"""


def test_an_interrupt_while_modules_load_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_MODULE)
    code = "import sys; from cli import main; main.COMMANDS['top',] = main.Command('slow:main', ''); main.main()"
    # In the background of a shell it would be ignored, there too.
    interruptible = ["env", "--default-signal=INT", sys.executable, "-c"]
    command = [*interruptible, f"import sys; sys.path.append({str(tmp_path)!r}); {code}", "top"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["prices", "list"], ["prices", "explain", "eu-west-1a", "eu-west-1b"]]
)
def test_output_that_cannot_be_written_is_one_line_and_exit_2(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(ZONEMETER + arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    name = " ".join(["zonemeter", *(word for word in arguments[:2] if not word.startswith("-"))])
    assert (done.returncode, done.stderr) == (2, f"{name}: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("arguments", [["--help"], ["prices", "list"]])
def test_a_reader_that_has_enough_is_no_fault(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(ZONEMETER + arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_said(flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert said([flag], monkeypatch, capsys) == (0, f"zonemeter {version('zonemeter')}\n", "")


@pytest.mark.parametrize(
    ("redirections", "arguments", "status", "says"),
    [
        (">&-", "prices list", 2, "zonemeter: the output cannot be written: stdout is closed\n"),
        (">&- 2>&-", "prices list", 2, ""),
        ("<&- 2>&-", "prices list", 0, ""),
        (">&-", "run audit --listen x", 2, "zonemeter run audit: listen (--listen, ZONEMETER_LISTEN) = 'x': expected"),
    ],
)
def test_what_a_shell_closed_is_no_traceback(redirections: str, arguments: str, status: int, says: str) -> None:
    command = f"exec {shlex.join(ZONEMETER)} {arguments} {redirections}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr[: len(says)], bool(done.stderr)) == (status, says, bool(says))


def test_a_name_beyond_the_terminals_encoding_is_shown() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*ZONEMETER, "prices", "explain", "caf\u00e9", "caf\u00e9", "--prices", "aws"], env=env, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"caf\\xe9 -> caf\\xe9: same_zone\nprice ")


def test_each_service_has_a_port_of_its_own() -> None:
    services = [what_it_reads(words, COMMANDS[words]).settings for words in COMMANDS if words[0] == "run"]
    listens = {service.model_fields["listen"].default for service in services}
    assert len(listens) == len(services) == 5
