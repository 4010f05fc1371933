"""Settings: option, environment, user's file, system's file, default; in that order.

The only module that reads the environment. A setting ``x`` is ``--x``, ``AYSFS_X`` and the
key ``x`` of the TOML files.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click
import platformdirs

from aysfs.errors import BadConfig, BadName
from aysfs.fetch.modes import MODES, PROFILE
from aysfs.limits import DEADLINE, Limits
from aysfs.names import DEFAULT_DOMAIN, ListRef, parse_name

SYSTEM_FILE = Path("/etc/aysfs/config.toml")

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_AGE = re.compile(r"(\d{1,9})\s*(|s|m|min|h|d|w)", re.IGNORECASE)
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Settings:
    """What a command works with. Paths are absolute."""

    store: tuple[str, ...] = field(repr=False)  # URLs, which may hold a password
    cache: Path
    runtime: Path
    logs: Path
    services: Path  # instances: build servers, keys, stores of builds
    builds: Path  # checkouts of repositories, and a log of each build
    templates: tuple[Path, ...] = ()  # searched after --templates and ./build
    namespace: str = "dedupe"
    default_domain: str = DEFAULT_DOMAIN
    cache_size: int = Limits().size
    keep_free: int = Limits().keep_free
    deadline: float = DEADLINE
    trust_images: tuple[str, ...] = field(default=(), repr=False)  # stores, as in `store`
    prefetch: str = PROFILE  # what a mount fetches before anybody asks
    prefetch_rate: int | None = None  # bytes a second of that; none: as fast as it goes
    packs: bool = False  # whether a push makes packs
    store_is_given: bool = False  # on the command line, where it may be mistyped

    @property
    def limits(self) -> Limits:
        """The bounds of the cache."""
        return Limits(self.cache_size, self.keep_free)

    def ref(self, text: str) -> ListRef:
        """A list file for what has a ``/`` or ends in ``.flist``, else a service's name."""
        if "/" in text or text.endswith(".flist"):
            return Path(os.path.abspath(text))
        return parse_name(text, self.default_domain)


KEYS = set(Settings.__dataclass_fields__) - {"store_is_given"}
"""What a file or the environment may set."""


def load_settings(store: Sequence[str] = (), cache: str | None = None) -> Settings:
    """The settings of this process; BadConfig names the file, key and what is wrong."""
    system = _read(SYSTEM_FILE)
    user = _read(_user_file())
    known = {**_defaults(), **system, **user, **_environment()}
    if store:
        known["store"] = (list(store), "--store")
    if cache is not None:
        known["cache"] = (cache, "--cache")
    return Settings(
        store=_stores(known, "store"),
        cache=_path(known, "cache"),
        runtime=_path(known, "runtime"),
        logs=_path(known, "logs"),
        services=_path(known, "services"),
        builds=_path(known, "builds"),
        templates=_paths(known, "templates"),
        namespace=_text(known, "namespace"),
        default_domain=_domain(known, "default_domain"),
        cache_size=_size(known, "cache_size"),
        keep_free=_size(known, "keep_free"),
        deadline=_seconds(known, "deadline"),
        trust_images=_stores(known, "trust_images", at_least=0),
        prefetch=_choice(known, "prefetch", MODES),
        prefetch_rate=_rate(known, "prefetch_rate"),
        packs=_flag(known, "packs"),
        store_is_given=bool(store),
    )


def settings_options(
    command: Callable[Concatenate[Settings, P], R],
) -> Callable[..., R]:
    """``--store`` and ``--cache`` for a command, which gets the Settings as first argument."""

    @click.option(
        "--store", multiple=True, metavar="URL", help="A store (AYSFS_STORE); repeatable."
    )
    @click.option("--cache", metavar="DIR", help="The cache directory (AYSFS_CACHE).")
    @wraps(command)
    def wrapper(store: tuple[str, ...], cache: str | None, *args: P.args, **kwargs: P.kwargs) -> R:
        return command(load_settings(store, cache), *args, **kwargs)

    return wrapper


Known = dict[str, tuple[object, str]]
"""A setting's value and where it was found."""


def _defaults() -> Known:
    limits = Limits()
    values: dict[str, object] = {
        "namespace": "dedupe",
        "templates": "",
        "trust_images": [],
        "default_domain": DEFAULT_DOMAIN,
        "cache_size": limits.size,
        "keep_free": limits.keep_free,
        "deadline": DEADLINE,
        "prefetch": PROFILE,
        "prefetch_rate": 0,
        "packs": False,
    }
    if os.geteuid() == 0:
        values |= {
            "store": "/var/lib/aysfs/store",
            "cache": "/var/cache/aysfs",
            "runtime": "/run/aysfs",
            "logs": "/var/log/aysfs",
            "services": "/etc/aysfs/services",
            "builds": "/var/lib/aysfs/builds",
        }
    else:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        values |= {
            "store": str(platformdirs.user_data_path("aysfs") / "store"),
            "cache": str(platformdirs.user_cache_path("aysfs")),
            "runtime": f"{runtime}/aysfs" if runtime else f"/tmp/aysfs-{os.geteuid()}",
            "logs": str(platformdirs.user_state_path("aysfs") / "log"),
            "services": str(platformdirs.user_config_path("aysfs") / "services"),
            "builds": str(platformdirs.user_data_path("aysfs") / "builds"),
        }
    return {name: (value, "the default") for name, value in values.items()}


def _user_file() -> Path:
    chosen = os.environ.get("AYSFS_CONFIG")
    if chosen:
        if not Path(chosen).exists():
            raise BadConfig(f"AYSFS_CONFIG names {chosen}, which is not there")
        return Path(chosen)
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "aysfs" / "config.toml"


def _read(path: Path) -> Known:
    try:
        with open(path, "rb") as file:
            values: Mapping[str, object] = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: {error}") from error
    unknown = sorted(set(values) - KEYS)
    if unknown:
        known = ", ".join(sorted(KEYS))
        raise BadConfig(f"{path}: no such setting `{unknown[0]}`", hint=f"known: {known}")
    return {name: (value, str(path)) for name, value in values.items()}


def _environment() -> Known:
    found: Known = {}
    for name in KEYS:
        variable = f"AYSFS_{name.upper()}"
        if os.environ.get(variable):
            found[name] = (os.environ[variable], variable)
    return found


def _text(known: Known, name: str) -> str:
    value, where = known[name]
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadConfig(f"{where}: `{name}` must be a text")
    return value


def _domain(known: Known, name: str) -> str:
    domain, where = _text(known, name), known[name][1]
    try:
        good = parse_name(f"{domain}__x").domain == domain
    except BadName:
        good = False
    if not good:
        raise BadConfig(f"{where}: `{name}` must be a domain, not {domain!r}")
    return domain


def _path(known: Known, name: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(_text(known, name))))


def _stores(known: Known, name: str, *, at_least: int = 1) -> tuple[str, ...]:
    """A list of stores, or a text with `,` between them; in the order in which they are asked."""
    value, where = known[name]
    parts = value.split(",") if isinstance(value, str) else value
    if (
        not isinstance(parts, list)
        or len(parts) < at_least
        or not all(isinstance(p, str) for p in parts)
    ):
        raise BadConfig(f"{where}: `{name}` must be a store or a list of them")
    if not all(parts):
        raise BadConfig(f"{where}: `{name}` names an empty store")
    if any("\0" in part for part in parts):
        raise BadConfig(f"{where}: `{name}` names a store with a NUL in it")
    return tuple(dict.fromkeys(map(store_url, parts)))


def _paths(known: Known, name: str) -> tuple[Path, ...]:
    """A list of folders, or a text with ``:`` between them."""
    value, where = known[name]
    parts = value.split(":") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise BadConfig(f"{where}: `{name}` must be a list of folders")
    return tuple(Path(os.path.abspath(os.path.expanduser(part))) for part in parts if part)


def source_date_epoch() -> int | None:
    """``SOURCE_DATE_EPOCH`` (reproducible-builds.org): no time in a list is later than it."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal():
        raise BadConfig(f"SOURCE_DATE_EPOCH must be a number of seconds, not {text!r}")
    return int(text)


def docker_address() -> str:
    """Where this user's Docker is, as every Docker client reads it."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def store_url(text: str) -> str:
    """A store as every process finds it: a URL, or the absolute path of a directory."""
    if not text:  # a variable of a script that is not set, and not the working directory
        raise BadConfig("a store needs an address", hint="a path or a URL")
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def parse_size(value: object, what: str) -> int:
    """Bytes from ``20G``, ``512 MiB`` or a plain number; BadConfig names ``what``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise BadConfig(f"{what} must be a size such as 20G, not {value!r}")
    return int(match[1]) << _UNITS[match[2].lower()]


def parse_rate(value: object, what: str) -> int | None:
    """Bytes a second, as a size; None for 0, which is no bound."""
    return parse_size(value, what) or None


def parse_age(text: str, what: str) -> float:
    """Seconds from ``24h``, ``30 min``, ``7d`` or a plain number; BadConfig names ``what``."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise BadConfig(f"{what} must be an age such as 24h or 7d, not {text!r}")
    return float(match[1]) * _SECONDS[match[2].lower()]


def _size(known: Known, name: str) -> int:
    value, where = known[name]
    return parse_size(value, f"{where}: `{name}`")


def _rate(known: Known, name: str) -> int | None:
    value, where = known[name]
    return parse_rate(value, f"{where}: `{name}`")


def _choice(known: Known, name: str, choices: Sequence[str]) -> str:
    value = _text(known, name)
    if value not in choices:
        words = ", ".join(choices)
        raise BadConfig(f"{known[name][1]}: `{name}` must be one of {words}, not {value!r}")
    return value


def _seconds(known: Known, name: str) -> float:
    value, where = known[name]
    try:
        seconds = float(value)  # type: ignore[arg-type]  # TypeError is caught
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadConfig(f"{where}: `{name}` must be a number of seconds, not {value!r}")
    return seconds


def _flag(known: Known, name: str) -> bool:
    value, where = known[name]
    flag = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
    if flag is None:
        raise BadConfig(f"{where}: `{name}` must be true or false, not {value!r}")
    return flag
