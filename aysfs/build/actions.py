"""What a template's ``actions_mgmt.py`` derives from: ``class Actions(ActionsBase)``.

Serves templates. The methods see a build through the service object that they are given, and
through nothing else.
"""

from collections.abc import Iterable
from typing import Protocol


class Service(Protocol):
    """The part of a service object that the default build needs."""

    def installRecipe(self) -> Iterable[tuple[str, str]]:  # noqa: N802 - the manual's name
        """Place what the recipe exports; source and destination of each."""
        ...

    def upload2AYSfs(self, path: str, /) -> None:  # noqa: N802 - the manual's name
        """Publish a folder of the place where the build runs."""
        ...


class ActionsBase:
    """The default actions."""

    def build(self, service: Service) -> None:
        """Place the recipe's exports and publish each."""
        for _src, dest in service.installRecipe():
            service.upload2AYSfs(dest)


ActionsBaseTmpl = ActionsBaseMgmt = ActionsBase
"""The names that the original system had."""
