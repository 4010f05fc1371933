"""``ays build -n redis --host 'node.ssh!buildserver'``: the command line of the manual."""

import sys

import click

from aysfs.build.job import Options
from aysfs.cli.building import report
from aysfs.cli.config import load_settings
from aysfs.cli.main import run
from aysfs.cli.session import end_as_interrupted
from aysfs.cli.toolchain import BuildRequest, build


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ays() -> None:
    """Build services, as the manual of AtYourService writes it. The rest is in `aysfs`."""


@ays.command("build")
@click.option("-n", "--name", required=True, help="The service.")
@click.option("-d", "--domain", help="Its domain.")
@click.option(
    "--host", "hosts", multiple=True, help="key of the build server e.g: 'node.ssh!buildserver'"
)
@click.option(
    "--build",
    "image_build",
    is_flag=True,
    help="enable building of docker image before building the service",
)
@click.option("--push", "image_push", is_flag=True, help="push the docker image after building it.")
@click.option(
    "--debug",
    is_flag=True,
    help="don't clean the docker_build after build. usefull to debug if an error happen durin"
    " building",
)
def build_command(
    name: str,
    domain: str | None,
    hosts: tuple[str, ...],
    image_build: bool,
    image_push: bool,
    debug: bool,
) -> None:
    """Build a service."""
    end_as_interrupted()
    options = Options(debug=debug, image_build=image_build, image_push=image_push)
    full = f"{domain}__{name}" if domain else name
    report(build(load_settings(), BuildRequest((full,), hosts, options=options)), as_json=False)


def main() -> None:
    """The entry point of the ``ays`` script."""
    sys.exit(run(ays, sys.argv[1:], "ays"))
