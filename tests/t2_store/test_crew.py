"""Work side by side: each item once, so many at once, and errors come out as themselves."""

import pytest
import trio

from aysfs.errors import StoreTrouble
from aysfs.store.crew import side_by_side


async def test_each_item_is_worked_on_once_and_no_more_than_so_many_at_a_time() -> None:
    done: list[int] = []
    running = most = 0

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.lowlevel.checkpoint()
        running -= 1
        done.append(item)

    await side_by_side(iter(range(20)), work, 3)
    assert (sorted(done), most) == (list(range(20)), 3)
    await side_by_side([], work)


async def test_the_first_failure_ends_the_others_and_is_in_no_group() -> None:
    begun: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise StoreTrouble("two")
        await trio.sleep_forever()

    with pytest.raises(StoreTrouble, match="two"):
        await side_by_side(range(9), work, 3)
    assert sorted(begun) == [0, 1, 2]
