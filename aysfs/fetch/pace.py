"""How much to ask for at once, so that a line is busy and nobody waits long behind others.

Serves what is fetched before anybody asks.
"""

import trio

from aysfs.fetch.carry import Throttle

SIDE_BY_SIDE = 4  # of the crew, or beside it: most of the crew is there for readers
# Seconds of a request. A shorter one costs more than it is worth; what is longer than the line is
# waits in front of it, and so does who comes after it.
SHORTEST, SHORTEST_POLITE = 0.040, 0.004

_SMALLEST, _LARGEST = 64 << 10, 4 << 20  # stored bytes of a request


class Pace:
    """How much to ask for at once, learnt from how long it took.

    A request that takes about three times as long as its first byte keeps the line busy with
    ``SIDE_BY_SIDE`` of them, and holds nobody up much longer than asking itself does. ``rate`` is
    a bound in bytes a second.
    """

    def __init__(self, rate: int | None = None, shortest: float = SHORTEST) -> None:
        self.size = 2 * _SMALLEST
        self._shortest = shortest
        self._rate = rate
        self._latency = float("inf")
        self._due = 0.0  # of trio's clock: when the next request may begin

    async def allow(self) -> int:
        """Wait for the turn of the next request; the most that it may ask for."""
        if self._rate is None:
            return self.size
        await trio.sleep_until(self._due)
        return max(1, min(self.size, self._rate // 4))

    def spend(self, size: int) -> None:
        """So many bytes are asked for."""
        if self._rate is not None:
            self._due = max(self._due, trio.current_time()) + size / self._rate

    @property
    def throttle(self) -> Throttle | None:
        """For requests that are larger than what may be asked for."""
        return None if self._rate is None else self._throttle

    async def _throttle(self, left: int) -> int:
        piece = min(left, await self.allow())
        self.spend(piece)
        return piece

    def learn(self, latency: float, seconds: float) -> None:
        """What a request took until its first and its last byte."""
        self._latency = min(self._latency, latency)
        aim = max(2 * self._latency, self._shortest)
        if seconds < aim:
            self.size = min(2 * self.size, _LARGEST)
        elif seconds > 2 * aim:
            self.size = max(self.size // 2, _SMALLEST)
