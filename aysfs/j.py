"""``from aysfs import j``: the scripts of the manual, with only the import line changed.

    host = j.atyourservice.new(name="node.ssh", instance="master", args={...})
    j.atyourservice.getTemplate(name="redis").build(build_server="node.ssh!master")

Serves scripts. Everything is looked up when it is used, under the settings of that moment.
"""

from collections.abc import Mapping

from aysfs.build.instances import Instance, Services
from aysfs.build.job import Built, Options
from aysfs.build.template import Template
from aysfs.cli.config import load_settings
from aysfs.cli.toolchain import BuildRequest, build, templates_of
from aysfs.names import ServiceName


class BuildTemplate:
    """A template that builds itself."""

    def __init__(self, template: Template) -> None:
        self._template = template

    @property
    def name(self) -> ServiceName:
        return self._template.name

    @property
    def hrd(self) -> object:
        """Its ``service.hrd``."""
        return self._template.hrd

    def build(
        self,
        build_server: Instance | str | None = None,
        image_build: bool = False,
        image_push: bool = False,
        debug: bool = False,
    ) -> Built:
        """Build, verify and publish the service, on this host without a ``build_server``."""
        options = Options(debug=debug, image_build=image_build, image_push=image_push)
        hosts = (str(build_server),) if build_server else ()
        request = BuildRequest((str(self.name),), hosts, options=options)
        return build(load_settings(), request)[-1]


class AtYourService:
    """The part of the lineage's factory that builds need."""

    def new(
        self,
        name: str,
        instance: str = "main",
        args: Mapping[str, object] | None = None,
        parent: Instance | str | None = None,
    ) -> Instance:
        """A service instance, made or brought to these arguments."""
        return Services(load_settings().services).new(name, instance, args, parent)

    def getService(self, key: str) -> Instance:  # noqa: N802 - the manual's name
        """The one instance that a key names."""
        return Services(load_settings().services).get(key)

    def getTemplate(self, name: str, domain: str | None = None) -> BuildTemplate:  # noqa: N802 - the manual's name
        """The template of a service."""
        full = f"{domain}__{name}" if domain else name
        return BuildTemplate(templates_of(load_settings()).find(full))


atyourservice = AtYourService()
