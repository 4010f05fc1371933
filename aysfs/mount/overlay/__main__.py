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
from types import FrameType

log = logging.getLogger("aysfs.mount.overlay")

_SHORT_LIFE = 10.0  # seconds: a daemon that dies sooner is started again later each time
_LONGEST_PAUSE = 60.0


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
            if code >= 0 or self._stopping:
                return max(code, 0)
            log.warning("the daemon was killed by %s", signal.Signals(-code).name)
            alive = time.monotonic() - begun
            pause = 0.0 if alive > _SHORT_LIFE else min(_LONGEST_PAUSE, max(0.1, pause * 2))
            time.sleep(pause)

    def _run_once(self) -> int:
        receiver, sender = os.pipe()
        command = [sys.executable, "-P", "-m", "aysfs.mount.overlay.serve", str(sender)]
        with os.fdopen(receiver, "rb") as answers:
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[sender])
            self._worker = worker
            os.close(sender)
            assert worker.stdin is not None
            try:
                worker.stdin.write(self._options.encode())
                worker.stdin.close()
            except BrokenPipeError:  # killed already; ``wait`` says so
                pass
            line = answers.readline()
        if line and self._answer >= 0:
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
    return _Supervisor(sys.stdin.read(), int(sys.argv[1])).run()


if __name__ == "__main__":
    sys.exit(main())
