"""What a row is, and what it measured."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks import host
from benchmarks.host import Walked


class Measured(NamedTuple):
    """A figure, and what it was made of."""

    value: float
    note: str = ""


class Row(NamedTuple):
    """What to measure and what to reach, if anything; ``unit`` is s, ms, MiB, us or x (times the
    peer's)."""

    name: str
    what: str
    target: float | None
    unit: str
    measure: Callable[[], Measured]


def ratio(mine: float, peer: float, peer_name: str = "ext4") -> Measured:
    return Measured(mine / peer, f"{mine:.3f} s; {peer_name} {peer:.3f} s")


def same_bytes(mine: Walked, peer: Walked) -> None:
    """A figure for other bytes than the peer's would mean nothing."""
    if (mine.paths, mine.size) != (peer.paths, peer.size):
        raise host.FailedError(f"read {mine.size} bytes where ext4 has {peer.size}")


def microseconds(walked: Walked) -> float:
    return walked.seconds * 1e6 / walked.paths


def seconds_of(times: list[float]) -> str:
    return ", ".join(f"{seconds:.2f} s" for seconds in times)
