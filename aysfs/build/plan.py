"""In which order services are built: what they depend on before them, each once.

Serves builds. Pure but for reading templates.
"""

from collections.abc import Iterable
from typing import NamedTuple

from aysfs.build.recipe import dependencies
from aysfs.build.template import RECIPE, Finding, Template, Templates
from aysfs.errors import AysfsError, BadHrd, BadName, BadRecipe
from aysfs.names import ServiceName


class Planned(NamedTuple):
    """A service to build, and those that must be there before."""

    template: Template
    needs: tuple[ServiceName, ...]


def plan(templates: Templates, wanted: Iterable[str]) -> dict[ServiceName, Planned]:
    """Everything to build for these services, each after what it needs.

    Only ``dependencies`` with ``type:build`` count. BadRecipe for a circle, BadName for a tag: a
    build publishes the current list.
    """
    found: dict[ServiceName, Planned] = {}
    for name in wanted:
        if "@" in name:
            raise BadName(
                f"`{name}` cannot be built: a build has no tag", hint="leave out `@` and the tag"
            )
        _visit(templates, templates.find(name), found, ())
    return found


def _visit(
    templates: Templates,
    template: Template,
    found: dict[ServiceName, Planned],
    above: tuple[ServiceName, ...],
) -> None:
    name = template.name
    if name in above:
        circle = " -> ".join(map(str, (*above[above.index(name) :], name)))
        raise BadRecipe(f"the dependencies go in a circle: {circle}")
    if name in found:
        return
    needs = []
    for other in _needed(template):
        needed = templates.find(other)
        _visit(templates, needed, found, (*above, name))
        needs.append(needed.name)
    found[name] = Planned(template, tuple(dict.fromkeys(needs)))


def absent(templates: Templates, template: Template) -> list[Finding]:
    """What this template needs to be built first and that no folder of templates has."""
    found = []
    place = str(template.folder / RECIPE)
    try:
        needed = _needed(template)
    except BadHrd:
        return []  # a finding of the template itself
    for other in needed:
        try:
            templates.find(other)
        except AysfsError as refusal:
            found.append(Finding(place, f"it needs `{other}`: {refusal}"))
    return found


def _needed(template: Template) -> list[str]:
    return [
        f"{one.domain}__{one.name}" if one.domain else one.name
        for one in dependencies(template.hrd)
        if one.type == "build"
    ]
