# SPDX-License-Identifier: Apache-2.0
"""A module as a process of its own, forked off one that has imported what all services import.

An interpreter takes half a second of CPU to import a service, and the tests start hundreds of them. What is forked is
a process like any other: it has its own arguments, environment and output, is killed and waited for. What it holds in
memory when it begins is more than a service of its own interpreter would.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.network import namespaces

FORKS = multiprocessing.get_context("forkserver")
SERVICES = [
    "audit.main",
    "cli.main",
    "enricher.main",
    "sinks.flowlog.main",
    "sinks.metrics.main",
    "collector.kernel.loader",
    "collector.main",
]
FORKS.set_forkserver_preload(["__main__", *SERVICES])


class Forked:
    """As much of `subprocess.Popen` as tests ask for: `python -m` the first of `words` with the others as arguments.

    `namespace` names the network namespace that it is in, if not this one.
    """

    def __init__(
        self, words: Sequence[str], directory: Path, output: Path, errors: Path, namespace: str | None = None
    ) -> None:
        for path in (output, errors):
            path.open("ab").close()  # there from now on, as with `Popen`
        arguments = (list(words), directory, output.absolute(), errors.absolute(), dict(os.environ), namespace)
        # `daemon`: it is ended if it still runs when the tests are over.
        self._process = FORKS.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, or the signal that killed it as a negative number; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Return the exit status; raise `TimeoutExpired` if it runs on for so long."""
        self._process.join(seconds)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), seconds or 0)
        return status

    @property
    def returncode(self) -> int | None:
        """As `poll`."""
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(
    words: Sequence[str],
    directory: Path,
    output: Path,
    errors: Path,
    environment: Mapping[str, str],
    namespace: str | None,
) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, output), (2, errors)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = list(words)
    if namespace is not None:
        namespaces.move(namespace)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
