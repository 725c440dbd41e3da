# SPDX-License-Identifier: Apache-2.0
"""`make soak`: every service at full load for half an hour; memory, file descriptors and tasks must be flat.

The lab: real packets, real Kafka; windows of 2 s, so that each minute has as many of them as five have in production.
With NODES=1000: as many made-up nodes (`zonemeter lab synth --live`), and no collector. Flat means: over the run but
its first fifth, memory grows by at most `MOST_MIB_PER_HOUR`, or by less than twice what the slope itself is uncertain
by; descriptors and tasks end where they began. Writes a chart and its section of docs/benchmarks.md. Exit status 1 if
something grows, or if the ledger does not close.
"""

import argparse
import asyncio
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from bench.kafka import pipeline
from bench.measure import process, report
from bench.measure.chart import chart
from bench.measure.process import cpu_seconds, metric, resident_bytes
from common.settings import KafkaSettings
from lab import cluster
from lab.network import namespaces
from lab.services import Ports, Tuning, commands
from lab.stories import found
from lab.synth.cluster import SynthCluster

MOST_MIB_PER_HOUR = 1.0
_WARM_UP = 0.2
_PARTS = 12
_EVERY_SECONDS = 5.0
_SETTLE_SECONDS = 90.0
_MIB = 1024 * 1024
_COLUMNS = ("service", "memory, MiB: begin, end", "slope, MiB/h", "descriptors", "tasks", "CPU s/min", "")
_HEAD = f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|"


@dataclass
class Course:
    """One service over time: seconds since the beginning, and what it held then."""

    role: str
    seconds: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def warm(self, values: Sequence[float]) -> Sequence[float]:
        """Return values without those of the warm-up."""
        return values[int(len(values) * _WARM_UP) :]

    def slope(self) -> tuple[float, float]:
        """Return how memory grows in MiB an hour, and the standard error of that.

        Fitted to medians of parts: neighbouring samples are not independent, and would seem more certain than they are.
        """
        parts = min(_PARTS, len(self.warm(self.seconds)))
        hours = [median(part) / 3600 for part in np.array_split(np.array(self.warm(self.seconds)), parts)]
        sizes = [median(part) / _MIB for part in np.array_split(np.array(self.warm(self.resident)), parts)]
        (per_hour, _), covariance = np.polyfit(hours, sizes, 1, cov=True)
        return float(per_hour), float(covariance[0][0] ** 0.5)

    def faults(self) -> list[str]:
        """Return what is not flat."""
        per_hour, error = self.slope()
        grows = per_hour > max(MOST_MIB_PER_HOUR, 2 * error)
        more = {"descriptors": self.warm(self.descriptors), "tasks": self.warm(self.tasks)}
        rising = [name for name, values in more.items() if _ends(values)[1] > _ends(values)[0]]
        return (["memory grows"] if grows else []) + [f"more {name}" for name in rising]

    def row(self) -> str:
        """Return it as a line of the table."""
        (first, last), (per_hour, error) = _ends(self.warm(self.resident)), self.slope()
        descriptors, tasks = _ends(self.warm(self.descriptors)), _ends(self.warm(self.tasks))
        cpu = (self.cpu[-1] - self.cpu[0]) / (self.seconds[-1] - self.seconds[0]) * 60
        verdict = "; ".join(self.faults()) or "flat"
        return (
            f"| {self.role} | {first / _MIB:.1f}, {last / _MIB:.1f} | {per_hour:+.1f} ± {error:.1f} "
            f"| {descriptors[0]:.0f}, {descriptors[1]:.0f} | {tasks[0]:.0f}, {tasks[1]:.0f} | {cpu:.1f} | {verdict} |"
        )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and of the last third."""
    third = max(len(values) // 3, 1)
    return float(median(values[:third])), float(median(values[-third:]))


@dataclass(frozen=True, slots=True)
class Watched:
    """A service: its process, the port of its pages, and the network namespace that it has them in."""

    pid: int
    port: int
    namespace: str | None = None


async def run(minutes: float) -> tuple[list[Course], bool]:
    """Run the lab for so long; return every service's course, and whether the ledger closed over all of it."""
    plan, ports = found("zmsoak", 218), Ports.free()
    # The audit keeps each window for its span: it must be full before anything can be flat.
    tuning = Tuning(window_seconds=2, cut_seconds=10, audit_minutes=5)
    try:
        files = await cluster.up(plan, ports, tuning=tuning, say=lambda line: print(line, file=sys.stderr))
        of = {command.role: command for command in commands(plan, ports, files, tuning)}
        watched = {
            each.role: Watched(each.pid, of[each.role].ready_port, of[each.role].namespace)
            for each in cluster.status(plan.prefix).processes
            if each.role in of
        }
        traffic = cluster.start_traffic(plan)
        courses = await asyncio.to_thread(_watch, watched, minutes * 60)
        assert traffic.alive, "the traffic ended by itself"
        cluster.stop(plan.prefix, "traffic", "collector")
        return courses, await _closes(["--kafka-bootstrap", f"127.0.0.1:{ports.kafka}"])
    finally:
        await cluster.down(plan.prefix)


def run_synth(minutes: float, nodes: int) -> tuple[list[Course], bool]:
    """Do the same with made-up nodes of 20 pods and 35 flows a window, in real time."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bootstrap = stack.enter_context(pipeline.broker())
        settings = KafkaSettings(kafka_bootstrap=bootstrap)
        asyncio.run(pipeline.make_topics(settings))
        states = [*SynthCluster(nodes, nodes * 20, seed=1).states()]
        flags = {"enricher": [], "metrics": [], "flowlog": ["--cut-seconds", "30"], "audit": ["--span-minutes", "5"]}
        running = stack.enter_context(pipeline.all_services(settings, directory, states, flags))
        watched = {room: Watched(pid, int(address.rpartition(":")[2])) for room, (pid, address) in running.items()}
        size = ["--nodes", str(nodes), "--pods", str(nodes * 20), "--windows", str(int(minutes * 6) - 2), "--live"]
        with process.running("cli", "lab", "synth", "--kafka-bootstrap", bootstrap, *size):
            courses = _watch(watched, minutes * 60)
        return courses, asyncio.run(_closes(["--kafka-bootstrap", bootstrap]))


def _watch(watched: dict[str, Watched], seconds: float) -> list[Course]:
    courses = {role: Course(role) for role in watched}
    begun = time.monotonic()
    while (at := time.monotonic() - begun) < seconds:
        for role, course in courses.items():
            course.seconds.append(at)
            pid = watched[role].pid
            course.resident.append(resident_bytes(pid))
            course.descriptors.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
            course.cpu.append(cpu_seconds(pid))
            course.tasks.append(_tasks(watched[role]))
        time.sleep(max(0.0, begun + at + _EVERY_SECONDS - time.monotonic()))
    return list(courses.values())


def _tasks(service: Watched) -> int:
    """Ask a service how many tasks it has; this thread visits the service's namespace for that."""
    with namespaces.enter(service.namespace) if service.namespace else nullcontext():
        return int(metric(f"http://127.0.0.1:{service.port}/metrics", "zonemeter_tasks"))


async def _closes(kafka: list[str]) -> bool:
    command = [sys.executable, "-m", "cli", "audit", *kafka]
    command += ["--since", "24h", "--settle-seconds", "0", "-o", "json"]
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        has_arrived = done.returncode == 0 and not json.loads(done.stdout)["late_windows"]
        if has_arrived or time.monotonic() > deadline:
            print(done.stdout, done.stderr, file=sys.stderr)
            return has_arrived
        await asyncio.sleep(2)


def section(courses: Sequence[Course], minutes: float, nodes: int | None, closes: bool) -> str:
    """Return the section of docs/benchmarks.md."""
    what = "The lab's demo traffic, windows of 2 s." if nodes is None else f"{nodes:,} made-up nodes in real time."
    title = "Soak: memory, descriptors and tasks over time" if nodes is None else f"Soak of {nodes:,} made-up nodes"
    words = f"make soak MINUTES={minutes:g}" + (f" NODES={nodes}" if nodes else "")
    today = datetime.datetime.now(datetime.UTC).date()
    ledger = "The ledger closed over the whole run." if closes else "**The ledger did not close.**"
    return "\n".join(
        [
            f"## {title}\n",
            f"`{words}`, {today}, on {report.machine()}.\n",
            f"{what} *begin* and *end* are medians over the first and the last third",
            "of the run without its first fifth; the slope is a line through medians of twelve parts, with its",
            f"standard error. Flat: at most {MOST_MIB_PER_HOUR:g} MiB/h or twice the error; descriptors and tasks",
            f"end where they began. {ledger}\n",
            "\n".join([_HEAD, *(course.row() for course in courses)]) + "\n",
            f"![memory, descriptors and tasks of each service over the run]({_chart(nodes).name})\n",
        ]
    )


def _chart(nodes: int | None) -> Path:
    return report.PAGE.with_name("soak.svg" if nodes is None else "soak-synth.svg")


def main() -> int:
    """Run `make soak`; return the exit status."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, help="made-up ones, instead of the lab")
    parser.add_argument("--no-write", action="store_true", help="print only")
    wanted = parser.parse_args()
    if wanted.nodes is None:
        courses, closes = asyncio.run(run(wanted.minutes))
    else:
        courses, closes = run_synth(wanted.minutes, wanted.nodes)
    body = section(courses, wanted.minutes, wanted.nodes, closes)
    print(body)
    if not wanted.no_write:
        panels = {"resident memory, MiB": "resident", "file descriptors": "descriptors", "tasks": "tasks"}
        drawn = {title: {c.role: _points(c, name) for c in courses} for title, name in panels.items()}
        _chart(wanted.nodes).write_text(chart(drawn, "min"))
        name = "soak" if wanted.nodes is None else "soak-synth"
        report.PAGE.write_text(report.replaced(report.PAGE.read_text(), name, body))
    return int(not closes or any(course.faults() for course in courses))


def _points(course: Course, name: str) -> list[tuple[float, float]]:
    scale = _MIB if name == "resident" else 1
    return [(at / 60, value / scale) for at, value in zip(course.seconds, getattr(course, name), strict=True)]


if __name__ == "__main__":
    raise SystemExit(main())
