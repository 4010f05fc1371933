"""What every command runs in."""

import signal
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.cli import session
from aysfs.cli.config import Settings
from aysfs.cli.session import run_async
from aysfs.store import layout


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


def test_what_has_come_is_flushed_while_more_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at the end what is left; a crash of the host costs no more than that."""
    monkeypatch.setattr(session, "_LOOK", 0.0)
    monkeypatch.setattr(session, "_MUCH", 2)
    blobs = [b"first", b"sec", b"x"]
    for blob in blobs:
        path = tmp_path / "store" / layout.blob("dedupe", digests.of(blob))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    counters = []
    settings = Settings(
        store=(f"file://{tmp_path}/store",),
        cache=tmp_path / "cache",
        runtime=tmp_path / "run",
        logs=tmp_path / "logs",
        services=tmp_path / "services",
        builds=tmp_path / "builds",
        keep_free=0,
    )

    async def work() -> None:
        async with session.fetching(settings) as fetcher:
            counters.append(fetcher.counters)
            for blob in blobs[:2]:
                before = fetcher.counters.flushed_bytes
                await fetcher.ensure(digests.of(blob), len(blob))
                while fetcher.counters.flushed_bytes == before:
                    await trio.lowlevel.checkpoint()
            await fetcher.ensure(digests.of(blobs[2]), 1)
            assert fetcher.counters.flushed_bytes == 8

    run_async(work)
    assert counters[0].flushed_bytes == 9
    assert (tmp_path / "cache" / "synced").exists()
