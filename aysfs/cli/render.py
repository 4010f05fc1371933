"""What a person or a script sees: errors, sizes, JSON. Words live here."""

import errno
import json
import os
import sys
import tempfile

import click

from aysfs.errors import AysfsError, BuildFailed, ExitCode, VerifyFailed, first_of

_SHOWN = 50  # findings of a verification


def exit_code(error: BaseException) -> int:
    """The named exit code of an error."""
    error = first_of(error)
    if isinstance(error, AysfsError):
        return int(error.code)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return int(ExitCode.INTERRUPTED)
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if _is_full(error):
        return int(ExitCode.NO_SPACE)
    return int(ExitCode.FAILURE)


def show_error(error: BaseException) -> None:
    """One line on standard error, and the next step when there is one."""
    error = first_of(error)
    if isinstance(error, SystemExit):
        return
    if isinstance(error, KeyboardInterrupt | click.Abort):
        click.echo("aysfs: interrupted", err=True)
    elif isinstance(error, BrokenPipeError):  # `aysfs ls ... | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif isinstance(error, AysfsError):
        if isinstance(error, BuildFailed) and error.output:
            click.echo(f"{error.output}\n", err=True)
        if isinstance(error, VerifyFailed):
            for finding in error.findings[:_SHOWN]:
                click.echo(f"  {finding}", err=True)
        click.echo(f"aysfs: {error}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
    elif isinstance(error, OSError) and _is_full(error):
        what = error.filename or f"the folder {tempfile.gettempdir()} of temporary files, it seems"
        click.echo(f"aysfs: no space left on the disk of {what}", err=True)
        click.echo("  TMPDIR names another folder for temporary files", err=True)
    else:
        click.echo(f"aysfs: internal error: {type(error).__name__}: {error}", err=True)
        click.echo("  run it again as `aysfs --debug ...` for the traceback", err=True)


def _is_full(error: BaseException) -> bool:
    """Whether a disk is full that belongs to no store and no cache."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def note(line: str) -> None:
    """A line for people, which must not mix with what a script reads."""
    click.echo(line, err=True)


def show_json(value: object) -> None:
    """A value for scripts."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))
