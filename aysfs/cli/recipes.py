"""``aysfs template``: what can be built."""

from pathlib import Path

import click

from aysfs.build.plan import absent
from aysfs.cli.config import load_settings
from aysfs.cli.render import show_json
from aysfs.cli.toolchain import templates_of
from aysfs.errors import BadRecipe

_roots = click.option(
    "--templates",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of templates, searched before ./build; repeatable.",
)


@click.group("template")
def template_command() -> None:
    """List, show and check the templates that services are built from."""


@template_command.command("list")
@_roots
@click.option("--json", "as_json", is_flag=True, help="Report for scripts.")
def list_command(templates: tuple[Path, ...], as_json: bool) -> None:
    """Every template that can be found, and where."""
    found = templates_of(load_settings(), templates).list()
    if as_json:
        show_json([{"service": str(one.name), "folder": str(one.folder)} for one in found])
        return
    width = max((len(str(one.name)) for one in found), default=0)
    for one in found:
        click.echo(f"{one.name!s:{width}}  {one.folder}")


@template_command.command("show")
@click.argument("service")
@_roots
def show_command(service: str, templates: tuple[Path, ...]) -> None:
    """The recipe of SERVICE, every name in it replaced."""
    template = templates_of(load_settings(), templates).find(service)
    click.echo(f"# {template.name} in {template.folder}\n")
    click.echo(str(template.hrd))


@template_command.command("check")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@_roots
def check_command(services: tuple[str, ...], templates: tuple[Path, ...]) -> None:
    """Everything that is wrong with templates, as far as it shows without building."""
    known = templates_of(load_settings(), templates)
    chosen = [known.find(name) for name in services] or known.list()
    findings = [(one, finding) for one in chosen for finding in [*one.check(), *absent(known, one)]]
    for _, finding in findings:
        click.echo(str(finding))
    if findings:
        names = sorted({str(one.name) for one, _ in findings})
        raise BadRecipe(f"{len(findings)} findings in {', '.join(names)}")
    click.echo(f"{len(chosen)} templates: good")
