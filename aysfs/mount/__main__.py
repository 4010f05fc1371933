"""``python -m aysfs.mount``: the daemon's process.

Reads its options as JSON from standard input and tells the command that started it, in one
JSON line on the descriptor given as argument, that the mount is usable or why there is none.
"""

import json
import logging
import os
import sys

from aysfs.errors import AysfsError, ExitCode
from aysfs.mount.daemon import run
from aysfs.mount.options import from_json
from aysfs.mount.spawn import allow_all_descriptors


def main() -> int:
    """Serve until unmounted; the exit code is that of the error, if any."""
    answer = int(sys.argv[1])
    allow_all_descriptors()
    options = from_json(sys.stdin.read())
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )

    def tell(line: dict[str, object]) -> None:
        nonlocal answer
        if answer >= 0:
            os.write(answer, json.dumps(line).encode() + b"\n")
            os.close(answer)
            answer = -1

    try:
        run(options, lambda: tell({"ready": True}))
    except AysfsError as error:
        logging.getLogger("aysfs").error("%s", error)
        tell({"failed": str(error), "code": int(error.code), "hint": error.hint})
        return int(error.code)
    return int(ExitCode.OK)


sys.exit(main())
