# SPDX-License-Identifier: Apache-2.0
"""What a task that failed leaves behind in the task that held its group."""

import asyncio

import pytest

from common.task_group import TaskGroup


async def fail_soon() -> None:
    await asyncio.sleep(0)
    raise OSError("no connection")


async def hold(work: float) -> None:
    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as tasks:
            tasks.create_task(fail_soon())
            await asyncio.sleep(work)


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


@pytest.mark.parametrize("work", [0, 60], ids=["the block had ended", "within the block"])
def test_a_failure_leaves_no_cancellation(work: float) -> None:
    async def inside() -> None:
        for _ in range(3):
            await hold(work)
        assert cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)

    asyncio.run(inside())


@pytest.mark.parametrize("work", [0, 60], ids=["the block had ended", "within the block"])
def test_what_others_cancel_is_still_counted(work: float) -> None:
    async def cancel_and_fail(parent: asyncio.Task[None]) -> None:
        parent.cancel()
        raise OSError("no connection")

    async def inside() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as tasks:
                tasks.create_task(cancel_and_fail(task))
                await asyncio.sleep(work)
        assert cancelling() == 1

    asyncio.run(inside())


def test_a_deadline_around_a_group_that_fails_stays_a_deadline() -> None:
    async def linger() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise OSError("closed") from None

    async def inside() -> None:
        with pytest.raises((ExceptionGroup, TimeoutError)):
            async with asyncio.timeout(0.01), TaskGroup() as tasks:
                tasks.create_task(linger())
        assert cancelling() == 0

    asyncio.run(inside())
