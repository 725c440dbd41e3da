# SPDX-License-Identifier: Apache-2.0
"""`make torture`: every nemesis many times, a table at the end; exit status 1 if anything did not hold.

--seed N does the same again as far as the machine lets it; --only NAME (part of a scenario's name) and --share 0.1
(of the times) make it shorter; whole, it writes its section of docs/benchmarks.md.
"""

import argparse
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.torture import page
from tests.torture.nemeses import packets
from tests.torture.scenario import HEAD, Result, Scenario, run
from tests.torture.scenarios import PACKETS, SCENARIOS
from tests.torture.world import World


def main() -> int:
    """Run what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--only", default="", help="part of a scenario's name; several: a|b")
    parser.add_argument("--share", type=float, default=1.0, help="of the long form's number of times")
    parser.add_argument("--keep", action="store_true", help="keep logs and files")
    asked = parser.parse_args()
    chosen = [each for each in SCENARIOS if any(part in each.name for part in asked.only.split("|"))]
    lab = {name: act for name, act in PACKETS.items() if any(part in name for part in asked.only.split("|"))}
    if not chosen and not lab:
        parser.error(
            f"--only {asked.only}: no such scenario; there are: {', '.join([*PACKETS, *(s.name for s in SCENARIOS)])}"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    directory = Path(tempfile.mkdtemp(prefix="zonemeter-torture-"))
    print(f"seed {asked.seed}, files in {directory}", file=sys.stderr)
    results = []
    for result in _each(chosen, lab, directory, asked):
        results.append(result)
        print(result.line(), file=sys.stderr, flush=True)
    if not asked.keep and all(result.fault is None for result in results):
        shutil.rmtree(directory, ignore_errors=True)
    if not asked.only and asked.share == 1:
        page.write(results, asked.seed)
    print(f"seed {asked.seed}", HEAD, *(result.line() for result in results), sep="\n")
    return 0 if all(result.fault is None for result in results) else 1


def _each(
    chosen: list[Scenario], lab: dict[str, tuple[packets.Nemesis, int]], directory: Path, asked: argparse.Namespace
) -> Iterator[Result]:
    for name, (nemesis, times) in lab.items():
        yield packets.run(name, nemesis, max(1, round(times * asked.share)), asked.seed, _own(directory, name))
    for scenario in chosen:
        yield _one(scenario, directory, asked.seed, max(1, round(scenario.times * asked.share)))


def _own(directory: Path, name: str) -> Path:
    own = directory / re.sub("[^a-z0-9]+", "-", name.lower())
    own.mkdir()
    return own


def _one(scenario: Scenario, directory: Path, seed: int, times: int) -> Result:
    own = _own(directory, scenario.name)
    with scenario.kafka(own / "kafka") as kafka:
        world = World(own, kafka, seed, counts=dict(scenario.counts), flags=scenario.flags)
        return run(world, scenario, times, own / "prometheus")


if __name__ == "__main__":
    sys.exit(main())
