"""``aysfs status``: every mount of this user, how it is served, and who still holds what."""

from pathlib import Path
from typing import Any

import click

from aysfs.cli.config import Settings, settings_options
from aysfs.cli.render import show_json
from aysfs.errors import AysfsError
from aysfs.kernel.table import find_kernel_mount
from aysfs.mount import life
from aysfs.mount.client import Answer, ask
from aysfs.mount.overlay import life as overlay
from aysfs.mount.runtime import Record, records
from aysfs.sizes import size_text

_SHOWN = 10


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Everything, for scripts.")
@settings_options
def status_command(settings: Settings, as_json: bool) -> None:
    """Show every mount of this user: how it is served, hits, misses, bytes."""
    overlay.repair(settings.runtime)
    answers = [_status(record) for record in records(settings.runtime)]
    known = {str(answer["point"]) for answer in answers}
    for point in life.strays(settings.runtime):
        if point not in known:
            answers.append({"point": point, "state": "mounted by somebody else"})
    for tree in overlay.abandoned(settings.runtime):
        answers.append(tree | {"state": "not mounted any more, and still held"})
    if as_json:
        show_json(answers)
        return
    if not answers:
        click.echo("nothing is mounted")
    for answer in answers:
        _show(answer)


def _status(record: Record) -> Answer:
    base: Answer = {
        "point": record.point,
        "services": list(record.services),
        "pid": record.pid,
        "log": record.log,
    }
    if not record.alive:
        mounted = find_kernel_mount(record.point) is not None
        state = "dead: mount again to repair" if mounted else "dead: unmounted"
        return base | {"state": state}
    try:
        return base | ask(record.control, "status") | {"state": "serving"}
    except AysfsError as error:
        return base | {"state": f"not answering: {error}"}


def _show(answer: Answer) -> None:
    services = answer.get("services")
    names = ", ".join(map(str, services)) if isinstance(services, list) else "?"
    click.echo(_escaped(f"{answer['point']}: {names} ({answer['state']})"))
    _show_holders(answer)
    if answer["state"] != "serving":
        return
    numbers = {key: value for key, value in answer.items() if isinstance(value, int)}
    click.echo(
        f"  engine {answer['engine']} ({answer['why']}), pid {answer['pid']},"
        f" {numbers['entries']} entries, {size_text(numbers['size'])}"
    )
    if numbers.get("clashes"):
        click.echo(f"  {numbers['clashes']} paths that its lists show differently")
    seen = ("hits", "misses", "failures", "open_files")  # the overlay engine sees no hit, no open
    counts = [f"{numbers[one]} {one.replace('_', ' ')}" for one in seen if one in numbers]
    click.echo(f"  {', '.join(counts)}, {size_text(numbers['fetched_bytes'])} fetched")
    resting = answer["resting"]
    assert isinstance(resting, list)
    for one in resting:
        click.echo(
            f"  left alone for {one['seconds']} s: {_escaped(one['store'])}: {_escaped(one['why'])}"
        )
    _show_fetching(answer)


def _show_fetching(answer: Answer) -> None:
    ahead = answer.get("ahead", [])  # an older daemon's answer has none
    assert isinstance(ahead, list)
    for one in ahead:
        of = f"{size_text(one['done'])} of {size_text(one['total'])}, " if one["total"] else ""
        lost = f" ({size_text(one['lost'])})" if one.get("lost") else ""
        click.echo(f"  ahead: {_escaped(one['what'])}: {of}{one['state']}{lost}")
    flights = answer["in_flight"]
    assert isinstance(flights, list)
    asked = [one for one in flights if one["waiting"]]
    for flight in asked[:_SHOWN]:
        click.echo(
            f"  fetching {_escaped(flight['why'])}: {size_text(flight['here'])} of"
            f" {size_text(flight['size'])}, {_waiting(flight)}"
        )
    untold = answer.get("in_flight_more", 0)
    assert isinstance(untold, int)
    more = len(asked[_SHOWN:]) + untold
    if more:
        click.echo(f"  and {more} more that are waited for")


def _waiting(flight: dict[str, Any]) -> str:
    """How many wait, for how long, and who of them is known."""
    words = f"{flight['waiting']} waiting"
    if "waited" in flight:  # an older daemon does not say
        words += f" for {flight['waited']:.1f} s"
    who = ", ".join(f"{_name_of(pid)} ({pid})" for pid in flight.get("who", [])[:_SHOWN])
    return f"{words}: {who}" if who else words


def _name_of(pid: int) -> str:
    try:
        return _escaped(Path(f"/proc/{pid}/comm").read_text(errors="replace").strip())
    except OSError:
        return "a process that has ended"


def _show_holders(answer: Answer) -> None:
    held = answer.get("held", [])
    assert isinstance(held, list)
    for one in held:
        words = "holds an older tree" if one["served"] else "holds a dead tree: restart it"
        click.echo(_escaped(f"  {one['name']} ({one['pid']}) {words} ({one['how']})"))


def _escaped(text: str) -> str:
    """Names as a terminal may see them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
