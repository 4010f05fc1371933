"""``python -m aysfs.mount``: the daemon's process of one mount of the fuse engine.

Reads its options as JSON from standard input and tells the command that started it, in one
JSON line on the descriptor given as argument, that the mount is usable or why there is none.
"""

import gc

if __name__ == "__main__":  # collections in vain were a sixth of the start
    gc.disable()

import sys
from functools import partial

from aysfs.mount.daemon import run
from aysfs.mount.options import from_json
from aysfs.mount.process import be_daemon

if __name__ == "__main__":
    options = from_json(sys.stdin.read())
    sys.exit(be_daemon(options.log_level, partial(run, options)))
