"""``aysfs service``: the instances that builds use: keys, build servers, stores."""

import sys

import click

from aysfs.build.hrd import Ask
from aysfs.build.instances import Services
from aysfs.build.stor import prepare
from aysfs.cli.config import load_settings
from aysfs.cli.render import show_json
from aysfs.cli.toolchain import templates_of
from aysfs.errors import BadRecipe, TemplateMissing


def _services() -> Services:
    return Services(load_settings().services)


@click.group("service")
def service_command() -> None:
    """Make and look at service instances: keys, build servers, stores."""


@service_command.command("new")
@click.argument("name")
@click.argument("instance", default="main")
@click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--parent", metavar="KEY", help="The instance that this one is part of.")
@click.option("--consume", metavar="KEY[,KEY]", help="The instances that this one uses.")
def new_command(
    name: str, instance: str, values: tuple[str, ...], parent: str | None, consume: str | None
) -> None:
    """Make the INSTANCE of NAME, e.g. `node.ssh buildserver ip=10.0.0.5`, or change its values.

    A password is better asked for than written here: `password=-` reads it from the terminal, or
    a line of standard input.
    """
    settings = load_settings()
    given = dict(_pair(text) for text in values)
    schema = None
    try:
        schema = templates_of(settings).find(name).schema
    except TemplateMissing:  # the four kinds that builds use need no template
        schema = None
    made = Services(settings.services).new(
        name, instance, given, parent, schema=schema, ask=_ask if sys.stdin.isatty() else None
    )
    if consume:
        made.consume(consume)
    click.echo(str(made))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadRecipe(f"`{text}` is no KEY=VALUE")
    if value == "-":
        value = _secret(key)
    return key, value


def _secret(key: str) -> str:
    """A value that is not written on the command line; a script gives it as a line of input."""
    if sys.stdin.isatty():
        return str(click.prompt(key, hide_input=True, err=True))
    value = sys.stdin.readline().removesuffix("\n")
    if not value:
        raise BadRecipe(f"standard input has no value for `{key}`")
    return value


def _ask(key: str, question: Ask) -> str:
    """Answer an ``@ASK`` at the terminal."""
    words = question.descr.replace("__", " ") or key
    default = question.default
    return str(click.prompt(words, default=default, type=str))


@service_command.command("list")
@click.argument("key", required=False)
@click.option("--json", "as_json", is_flag=True, help="Report for scripts.")
def list_command(key: str | None, as_json: bool) -> None:
    """All instances, or those that fit KEY, e.g. `node.ssh` or `@node`."""
    found = _services().list(key)
    if as_json:
        show_json([{"key": str(one), "folder": str(one.folder)} for one in found])
        return
    for one in found:
        click.echo(str(one))


@service_command.command("show")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Report for scripts.")
def show_command(key: str, as_json: bool) -> None:
    """The values of one instance; secrets are never shown."""
    one = _services().get(key)
    fields = one.fields()
    if as_json:
        show_json({"key": str(one), "folder": str(one.folder), "values": fields})
        return
    click.echo(f"{one} in {one.folder}")
    for name, value in fields.items():
        click.echo(f"{name} = {value}")


@service_command.command("consume")
@click.argument("consumer")
@click.argument("producers")
def consume_command(consumer: str, producers: str) -> None:
    """Let the instance CONSUMER use PRODUCERS, keys with commas between them."""
    _services().get(consumer).consume(producers)


@service_command.command("prepare")
@click.argument("key")
def prepare_command(key: str) -> None:
    """Make the root and the accounts of the store KEY, an `ays_stor.ssh`, on its node."""
    settings = load_settings()
    services = Services(settings.services)
    stor = services.get(key)
    prepare(services, stor, namespace=settings.namespace)
    click.echo(f"{stor}: prepared")


@service_command.command("delete")
@click.argument("key")
@click.option("--force", is_flag=True, help="Although others use it.")
def delete_command(key: str, force: bool) -> None:
    """Remove an instance and those below it."""
    _services().delete(key, force=force)
