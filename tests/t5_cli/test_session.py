"""What every command runs in."""

import signal

import pytest
import trio

from aysfs.cli.session import run_async


def test_ctrl_c_comes_where_something_is_waited_for() -> None:
    """In the middle of a change it would leave a transfer of libcurl half begun, for one."""
    halves = []

    async def change() -> None:
        signal.raise_signal(signal.SIGINT)
        halves.append("second")
        await trio.sleep_forever()

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)

    for main in (change, work):
        halves.clear()
        with pytest.raises(KeyboardInterrupt):
            run_async(main)
        assert halves == ["second"]
