"""``python -m aysfs.mount.overlay``: keeps a daemon of the overlay engine running.

A daemon that is killed takes with it the fault layer: what is cached can still be read, and
nothing else. So its parent, this small process, starts another one, which puts fresh overlays at
the mount points. It reads the daemon's options from standard input and passes the daemon's first
line on, as ``aysfs.mount.spawn`` expects.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType

from aysfs.errors import ExitCode

log = logging.getLogger("aysfs.mount.overlay")

_SHORT_LIFE = 10.0  # seconds: a daemon that dies sooner is started again later each time
_LONGEST_PAUSE = 60.0
_LOOK_UP = 0.1  # seconds after which a signal is noticed during a pause


class _Supervisor:
    def __init__(self, options: str, answer: int) -> None:
        self._options = options
        self._answer = answer
        self._worker: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """Until a daemon ends of its own accord; its exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        pause = 0.0
        while True:
            begun = time.monotonic()
            code = self._run_once()
            if self._stopping or not self._died(code):
                return max(code, 0)
            how = "ended in an error" if code > 0 else f"was killed by {signal.Signals(-code).name}"
            log.warning("the daemon %s", how)
            alive = time.monotonic() - begun
            pause = 0.0 if alive > _SHORT_LIFE else min(_LONGEST_PAUSE, max(0.1, pause * 2))
            if self._told_to_stop(pause):
                return 0

    def _died(self, code: int) -> bool:
        """Whether it has to be replaced; one that was never ready because of a bug is not."""
        return code < 0 or (code == ExitCode.FAILURE and self._answer < 0)

    def _told_to_stop(self, pause: float) -> bool:
        """Whether that happens meanwhile: one long sleep would go on after the signal."""
        end = time.monotonic() + pause
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_UP))
        return self._stopping

    def _run_once(self) -> int:
        receiver, sender = os.pipe()
        command = [sys.executable, "-P", "-m", "aysfs.mount.overlay.serve", str(sender)]
        with os.fdopen(receiver, "rb") as answers:
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[sender])
            self._worker = worker
            os.close(sender)
            if self._stopping:  # told so while there was nobody to pass it on to
                worker.terminate()
            assert worker.stdin is not None
            try:
                worker.stdin.write(self._options.encode())
                worker.stdin.close()
            except BrokenPipeError:  # killed already; ``wait`` says so
                pass
            line = answers.readline()
        if line and self._answer >= 0:
            with suppress(BrokenPipeError):  # the command was killed
                os.write(self._answer, line)
            os.close(self._answer)
            self._answer = -1
        self._options = json.dumps(json.loads(self._options) | {"stays": False})
        return worker.wait()

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._worker is not None:
            self._worker.send_signal(number)


def main() -> int:
    """Supervise until there is nothing to serve."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    told = sys.stdin.read()
    if not told:  # whoever started us was killed before a word
        return int(ExitCode.INTERRUPTED)
    return _Supervisor(told, int(sys.argv[1])).run()


if __name__ == "__main__":
    sys.exit(main())
