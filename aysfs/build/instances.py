"""Service instances: folders ``<role>!<instance>`` with an ``instance.hrd``, children below.

Serves builds, the command line and scripts. Owns the services folder, whom its files belong
to (modes 0700 and 0600) and how an instance is found by key. It does nothing on a node.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from aysfs.build.hrd import Asker, Hrd, Value
from aysfs.build.hrd.secrets import masked
from aysfs.build.hrd.writer import format_line
from aysfs.build.keypair import find_key, keep_key, make_key
from aysfs.build.keys import ServiceKey, parse_key, role_of
from aysfs.build.kinds import Kind, SshKey, view
from aysfs.build.private import make_private, write_private
from aysfs.errors import Ambiguous, BadName, BadRecipe, InstanceInUse, InstanceMissing
from aysfs.names import DEFAULT_DOMAIN

FILE = "instance.hrd"


class Instance:
    """One instance on disk. ``str()`` and ``repr()`` are its key and nothing else."""

    def __init__(self, services: "Services", folder: Path, hrd: Hrd) -> None:
        self._services = services
        self.folder = folder
        self.hrd = hrd

    @property
    def key(self) -> ServiceKey:
        """Its full key: domain, template name, instance, role and perhaps a version."""
        read = self.hrd.get_str
        role, _, instance = self.folder.name.partition("!")
        name = read("service.name", role)
        domain, version = read("service.domain", DEFAULT_DOMAIN), read("service.version", "")
        return ServiceKey(domain, name, instance, role, version or None)

    @property
    def name(self) -> str:
        return self.key.name or ""

    @property
    def instance(self) -> str:
        return self.key.instance or ""

    @property
    def role(self) -> str:
        return self.key.role or ""

    @property
    def parent(self) -> "Instance | None":
        """The instance whose folder this one's is in."""
        above = self.folder.parent
        return self._services.load(above) if (above / FILE).is_file() else None

    def view(self) -> Kind | None:
        """The fields of a kind that is known; BadHrd when they are wrong."""
        return view(self.name, self.hrd)

    def fields(self) -> dict[str, str]:
        """What may be shown: each key with its text, secrets masked."""
        values = ((key, self.hrd.raw(key)) for key in self.hrd.prefix(""))
        return {key: format_line(masked(key, value)) for key, value in values}

    def private_key(self) -> Path | None:
        """The file of the private key that an ``sshkey`` stands for."""
        kind = self.view()
        return self._services.private_key(kind, self.folder) if isinstance(kind, SshKey) else None

    def consume(self, producers: "str | Instance | Iterable[str | Instance]") -> None:
        """Use other instances: keys in a comma list, one instance, or several of either."""
        self._services.consume(self, producers)

    def producers(self, role: str | None = None) -> list["Instance"]:
        """The instances that this one uses, of one role or of all."""
        keys = self.hrd.prefix(f"producer.{role}" if role else "producer")
        return [self._services.get(str(one)) for key in keys for one in self.hrd.get_list(key)]

    def save(self) -> None:
        write_private(self.folder / FILE, self.hrd.dump().encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instance) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    def __str__(self) -> str:
        return str(self.key)

    def __repr__(self) -> str:
        return f"<Instance {self}>"


class Services:
    """All instances below one folder. ``ssh`` is where a person's own keys are."""

    def __init__(self, folder: Path, *, ssh: Path | None = None) -> None:
        self.folder = folder.absolute()
        self._ssh = ssh or Path("~/.ssh").expanduser()

    # --- finding ---------------------------------------------------------------------------

    def load(self, folder: Path) -> Instance:
        """The instance in a folder."""
        return Instance(self, folder, Hrd.read(folder / FILE))

    def list(self, key: str | ServiceKey | None = None) -> list[Instance]:
        """All instances that fit a key, or simply all, parents before their children."""
        found = [self.load(folder) for folder in _folders(self.folder)]
        wanted = parse_key(key) if isinstance(key, str) else key
        return [one for one in found if wanted is None or fits(one.key, wanted)]

    def get(self, key: str | ServiceKey) -> Instance:
        """The one instance that fits; InstanceMissing and Ambiguous name the candidates."""
        found = self.list(key)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{one} ({one.folder})" for one in found)
            raise Ambiguous(f"`{key}` fits several service instances: {names}")
        names = ", ".join(map(str, self.list())) or "none"
        raise InstanceMissing(
            f"no service instance `{key}`; there are: {names}",
            hint="make it: `aysfs service new NAME INSTANCE KEY=VALUE...`",
        )

    # --- changing --------------------------------------------------------------------------

    def new(
        self,
        name: str,
        instance: str = "main",
        args: Mapping[str, object] | None = None,
        parent: Instance | str | None = None,
        *,
        domain: str = DEFAULT_DOMAIN,
        schema: Hrd | None = None,
        ask: Asker | None = None,
    ) -> Instance:
        """Make an instance of a template, or bring the one that is there to these arguments.

        ``schema`` is the template's own ``instance.hrd``: its values overrule, its questions
        go to ``ask`` where neither the arguments nor the instance have an answer.
        """
        key = parse_key(f"{domain}|{name}!{instance}")
        if (key.name, key.instance) != (name.lower(), instance.lower()):
            raise BadName(f"`{name}` and `{instance}` are no names of a template and an instance")
        owner = self.get(parent) if isinstance(parent, str) else parent
        folder = (owner.folder if owner else self.folder) / f"{role_of(key.name)}!{key.instance}"
        there = self.load(folder) if (folder / FILE).is_file() else None
        if there and there.name != key.name:
            raise BadRecipe(f"{folder} holds an instance of `{there.name}`, not of `{key.name}`")
        hrd = there.hrd if there else Hrd(source=str(folder / FILE))
        before = hrd.dump() if there else None
        own = {"name": key.name, "instance": key.instance, "domain": key.domain}
        for field, value in own.items():
            hrd.set(f"service.{field}", value)
        if schema:
            hrd.apply_template(schema, {})
        hrd.fill(args or {}, ask)
        kind = view(name.lower(), hrd)
        made = Instance(self, folder, hrd)
        make_private(folder)
        if hrd.dump() != before:
            made.save()
        if isinstance(kind, SshKey):
            self.private_key(kind, folder)
        return made

    def private_key(self, kind: SshKey, folder: Path) -> Path:
        """The private key of an ``sshkey`` instance, made when there is none."""
        if kind.private:
            return keep_key(kind.name, kind.private, folder)
        return find_key(kind.name, folder, self._ssh) or make_key(kind.name, folder)

    def consume(
        self, consumer: Instance, producers: str | Instance | Iterable[str | Instance]
    ) -> None:
        """Record what a consumer uses: a list ``producer.<role>`` for each role."""
        several = [producers] if isinstance(producers, str | Instance) else producers
        for one in several:
            keys = [key for key in one.split(",") if key.strip()] if isinstance(one, str) else []
            for producer in [self.get(key) for key in keys] if isinstance(one, str) else [one]:
                self._consume(consumer, producer)
        consumer.save()

    def _consume(self, consumer: Instance, producer: Instance) -> None:
        if producer == consumer:
            raise BadRecipe(f"`{consumer}` cannot consume itself")
        consumer.hrd.listAdd(f"producer.{producer.role}", str(producer))
        if (consumer.name, producer.name) == ("ays_stor_client.ssh", "ays_stor.ssh"):
            for key in ("root", "key.read", "key.write"):
                if producer.hrd.exists(key):
                    consumer.hrd.set(key, producer.hrd.get(key))

    def consumers(self, producer: Instance) -> Sequence[Instance]:
        """Who uses an instance."""
        return [one for one in self.list() if one != producer and _uses(one, producer)]

    def delete(self, key: str | Instance, *, force: bool = False) -> None:
        """Remove an instance with its children; refused while others use any of them."""
        gone = self.get(key) if isinstance(key, str) else key
        inside = [one for one in self.list() if one.folder.is_relative_to(gone.folder)]
        users = {
            str(user)
            for one in inside
            for user in self.consumers(one)
            if not user.folder.is_relative_to(gone.folder)
        }
        if users and not force:
            raise InstanceInUse(
                f"`{gone}` is consumed by {', '.join(sorted(users))}",
                hint="delete those first, or force it",
            )
        shutil.rmtree(gone.folder)


def fits(key: ServiceKey, wanted: ServiceKey) -> bool:
    """Whether a key has all that is wanted. A role may stand for the name: ``node!master``."""
    if wanted.name and wanted.name not in (key.name, key.role):
        return False
    parts = zip(key, wanted._replace(name=None), strict=True)
    return all(part is None or part == own for own, part in parts)


def _uses(consumer: Instance, producer: Instance) -> bool:
    """Whether an instance names another as its producer, under any spelling of its key."""
    named: list[Value] = []
    for key in consumer.hrd.prefix("producer"):
        named += consumer.hrd.get_list(key)
    return any(fits(producer.key, parse_key(str(one))) for one in named)


def _folders(below: Path) -> Iterator[Path]:
    """The folders of instances, parents before children. Links are not followed."""
    try:
        entries = sorted(os.scandir(below), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if "!" in entry.name and entry.is_dir(follow_symlinks=False):
            folder = Path(entry.path)
            if (folder / FILE).is_file():
                yield folder
            yield from _folders(folder)
