# SPDX-License-Identifier: Apache-2.0
"""One history for all tests that read one back."""

from collections.abc import Callable, Iterator

import pytest

from lab.kafka.broker import Broker
from tests.support.history.lived import Lived, lived
from tests.support.sinks.topics import Topics

# Exit status, stdout, stderr.
Ran = tuple[int, str, str]
Command = Callable[..., Ran]


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run a command's `main` with arguments."""

    def run(main: Callable[[list[str]], int], *argv: str) -> Ran:
        try:
            status = main(list(argv))
        except SystemExit as exit_:
            status = int(str(exit_.code))
        captured = capfdbinary.readouterr()
        return status, captured.out.decode(), captured.err.decode()

    return run


@pytest.fixture
def topics(broker: Broker) -> Topics:
    """The five topics under a prefix of the test's own, with three partitions."""
    return Topics.make(broker.bootstrap)


@pytest.fixture(scope="session")
def history(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """What the pipeline left of five minutes."""
    with lived(broker.bootstrap, tmp_path_factory.mktemp("history")) as made:
        yield made
