"""``mount.aysfs``: what mount(8) and /etc/fstab call for type ``aysfs``.

    mount.aysfs SERVICE[,SERVICE] DIR [-s] [-f] [-n] [-v] [-t TYPE] [-o OPTIONS]

Options that are settings (``store=``, ``cache=``, ``base=``) become options of
``aysfs mount``; the others are passed on.
"""

import sys

from aysfs.cli.main import cli, run
from aysfs.errors import ExitCode

_SETTINGS = {"store", "cache", "base", "engine", "log-level", "prefetch", "prefetch-rate"}
_FLAGS = {"-s", "-n", "-v", "-r"}


def translate(arguments: list[str]) -> list[str] | None:
    """The arguments of ``aysfs``; None when nothing is to be done (``-f``)."""
    places: list[str] = []
    words: list[str] = []
    rest: list[str] = []
    todo = iter(arguments)
    for word in todo:
        if word == "-f":
            return None
        if word in _FLAGS:
            continue
        if word == "-t":
            next(todo, None)
        elif word == "-o":
            words += next(todo, "").split(",")
        else:
            places.append(word)
    chosen: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        if name in _SETTINGS:
            chosen += [f"--{name}", value]
        elif word and word != "rw":  # what mount(8) says for everything that is not `ro`
            rest.append(word)
    services = places[0].split(",") if places else []
    options = ["-o", ",".join(rest)] if rest else []
    return ["mount", *chosen, *options, "--", *services, *places[1:]]


def main() -> None:
    """The entry point of the ``mount.aysfs`` script."""
    arguments = translate(sys.argv[1:])
    sys.exit(int(ExitCode.OK) if arguments is None else run(cli, arguments, "aysfs"))
