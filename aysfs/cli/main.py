"""``aysfs``: the table of commands, and the edge where errors become one line and a code.

The modules of the commands are imported when one runs: ``--help`` stays quick.
"""

import gc
import importlib
import itertools
import sys
from collections.abc import Sequence
from types import ModuleType

import click

from aysfs import __version__
from aysfs.cli.render import exit_code, show_error

COMMANDS = {
    # name: (module, what it does)
    "build": ("building", "Build services in containers and publish them."),
    "verify": ("building", "Check a built service in a container."),
    "log": ("building", "Show the log of a build."),
    "template": ("recipes", "List, show and check what can be built."),
    "service": ("instances", "Make and look at build servers, keys and stores."),
    "push": ("publishing", "Put a directory into a store as a service."),
    "mount": ("mounting", "Mount services as a read-only tree."),
    "umount": ("mounting", "Unmount a tree."),
    "status": ("status", "Show every mount and how it is served."),
    "reload": ("mounting", "Show the newer list of a mounted service."),
    "ls": ("reading", "List a service or a directory in it."),
    "cat": ("reading", "Write a file of a service to standard output."),
    "stat": ("reading", "Show everything known of a path."),
    "fetch": ("reading", "Bring files into the cache ahead of need."),
    "unpack": ("reading", "Write a service as ordinary files."),
    "profile": ("profiles", "Record and show what the start of a service reads."),
    "flist": ("lists", "Check, convert and compare lists."),
    "store": ("stores", "Look after a store: check, gc, copy, tags."),
    "cache": ("caching", "Look after the cache of this host."),
    "completion": ("completion", "Print shell completion for bash, zsh or fish."),
}


def _imported(name: str) -> ModuleType:
    """Import a module. Nothing of it is garbage: looking for some took a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


class CommandTable(click.Group):
    """A group whose commands are found in COMMANDS and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = _imported(f"aysfs.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"No such command '{args[0]}'.", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aysfs")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Mount services as read-only trees whose files are fetched on first read.

    A service is a list of files (a flist) and their blobs in a store.
    """


def run(command: click.Command, arguments: Sequence[str], program: str) -> int:
    """Run a command; its exit code. Every error ends here, as one line."""
    try:
        result = command.main(list(arguments), program, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BaseException as error:  # the outer edge: anything becomes a line and a code
        # Before the command it asks for the traceback; `build --debug` is something else.
        if "--debug" in itertools.takewhile(lambda word: word.startswith("-"), arguments):
            raise
        show_error(error)
        return exit_code(error)


def main() -> None:
    """The entry point of the ``aysfs`` script."""
    sys.exit(run(cli, sys.argv[1:], "aysfs"))
