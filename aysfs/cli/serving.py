"""``aysfs store serve`` and ``passwd``."""

import getpass
import logging
import signal
import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import trio

from aysfs.cli.config import parse_size, store_url
from aysfs.cli.render import note
from aysfs.cli.session import run_async
from aysfs.errors import BadConfig
from aysfs.server.accounts import Accounts, Right, hash_password, read_accounts
from aysfs.server.app import make_app
from aysfs.server.metrics import Metrics
from aysfs.server.place import Place
from aysfs.server.serve import Tls, listen, serve
from aysfs.server.service import Bounds, Service
from aysfs.server.upstream import open_upstream
from aysfs.store.open import open_stores


@click.command("serve")
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--listen", "address", default="127.0.0.1:8080", metavar="HOST:PORT", show_default=True
)
@click.option(
    "--accounts",
    "accounts_file",
    type=click.Path(path_type=Path),
    help="TOML of who may read, write and delete. Without it everybody reads, nobody writes.",
)
@click.option("--open", "is_open", is_flag=True, help="Everybody may read, write and delete.")
@click.option("--tls-cert", metavar="FILE", help="The certificate and its chain.")
@click.option("--tls-key", metavar="FILE", help="Its key.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="URL",
    help="A store that is asked for what this one lacks; can be given more than once.",
)
@click.option("--max-blob", default="1024G", metavar="SIZE", help="Of one blob [1024G].")
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Requests a second that one address may make; 0 is no bound.",
)
@click.option("--no-access-log", is_flag=True, help="Write no line for each request.")
def serve_command(
    root: Path,
    address: str,
    accounts_file: Path | None,
    is_open: bool,
    tls_cert: str | None,
    tls_key: str | None,
    sources: tuple[str, ...],
    max_blob: str,
    rate: float,
    no_access_log: bool,
) -> None:
    """Serve the store in the folder ROOT over HTTP: read as from any web server, and written to.

    Port 0 is any free one; the first line of the output says the address.
    """
    if is_open and accounts_file:
        raise click.UsageError("--open and --accounts exclude each other")
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    everything = Right.READ | Right.WRITE | Right.DELETE
    accounts = Accounts(everything if is_open else Right.READ)
    if accounts_file is not None:
        accounts = read_accounts(accounts_file)
    bounds = Bounds(blob=parse_size(max_blob, "`--max-blob`"), rate=rate)
    service = Service(Place(root), accounts, Metrics(), bounds)
    urls = tuple(map(store_url, sources))
    if urls:
        open_stores(urls)  # an address that is none is refused before anything is served
    tls = Tls(tls_cert, tls_key) if tls_cert and tls_key else None
    _log_to_stderr(access=not no_access_log)
    made = listen(address)
    run_async(partial(_serve, service, urls, made, tls))


async def _serve(
    service: Service, sources: tuple[str, ...], made: socket.socket, tls: Tls | None
) -> None:
    async with open_upstream(service.place.root, sources, service.metrics) as upstream:
        app = make_app(replace(service, upstream=upstream))
        await serve(app, made, tls, _tell, _told_to_end)


@click.command("passwd")
def passwd_command() -> None:
    """Print the hash of a password, for the file of accounts."""
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Again: "):
            raise BadConfig("the two passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise BadConfig("an empty password")
    click.echo(hash_password(password))


def _tell(url: str) -> None:
    click.echo(f"serving at {url}")
    sys.stdout.flush()


async def _told_to_end() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            note("aysfs: ending")
            return


def _log_to_stderr(*, access: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("aysfs.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("aysfs.server.access").disabled = not access
