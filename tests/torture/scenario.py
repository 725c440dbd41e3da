# SPDX-License-Identifier: Apache-2.0
"""A scenario is a nemesis and how often it strikes; afterwards one check holds for all (checker.py)."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.support.servers.prometheus import Prometheus, prometheus
from tests.torture.checker import check
from tests.torture.kafka import Setup, one
from tests.torture.world import World

Act = Callable[[World, int], None]


@dataclass(frozen=True)
class Scenario:
    """`act` is done to a pipeline of so many replicas of each room (`counts`), `times` times in the long form.

    `kafka` makes the Kafka that it needs; `flags` are more flags of a room.
    """

    name: str
    act: Act
    times: int
    counts: dict[str, int] = field(default_factory=lambda: {"enricher": 2, "metrics": 2, "flowlog": 2})
    flags: dict[str, list[str]] = field(default_factory=dict)
    kafka: Setup = one


@dataclass(frozen=True)
class Result:
    """How a scenario went; `fault` is None if everything held."""

    scenario: str
    times: int
    seconds: float
    recoveries: list[float]
    flows: int = 0
    repeated: int = 0
    fault: str | None = None

    def line(self) -> str:
        """Return it as a line of the table."""
        median = f"{statistics.median(self.recoveries):6.1f}" if self.recoveries else "     -"
        worst = f"{max(self.recoveries):6.1f}" if self.recoveries else "     -"
        verdict = "ok" if self.fault is None else f"FAILED: {self.fault[:200]}"
        return (
            f"{self.scenario:<44} {self.times:>5} {self.flows:>9,} {self.repeated:>8,} {median} {worst} "
            f"{self.seconds:>7.0f}  {verdict}"
        )


HEAD = (
    f"{'what was done':<44} {'times':>5} {'flows':>9} {'repeated':>8} {'p50 s':>6} {'max s':>6} {'took s':>7}  result"
)


def run(world: World, scenario: Scenario, times: int, scraped: Path | None) -> Result:
    """Do it and check; an open world is closed at the end. `scraped`: directory of a real Prometheus."""
    begun = time.monotonic()
    found, fault = None, None
    try:
        with _scraping(world, scraped) as scraper:
            if scraper is not None:
                world.scraped = partial(_scraped, world, scraper)
            world.open()
            scenario.act(world, times)
            found = check(world, scraper)
    except Exception as error:  # noqa: BLE001 - one scenario's failure must not end the others
        fault = " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        world.close()
    return Result(
        scenario.name,
        times,
        time.monotonic() - begun,
        world.recoveries,
        found.flows if found else len(world.feeder.truth),
        found.repeated if found else 0,
        fault,
    )


def _scraped(world: World, scraper: Prometheus) -> None:
    scraper.fresh("up", up=world.counts["metrics"])


@contextmanager
def _scraping(world: World, directory: Path | None) -> Iterator[Prometheus | None]:
    if directory is None:
        yield None
        return
    # One more than there are now: replicas may come.
    targets = [world.fleet.listen(f"metrics-{number}") for number in range(world.counts["metrics"] + 1)]
    with prometheus(targets, directory) as scraper:
        yield scraper
