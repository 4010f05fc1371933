"""What an ``s3://``, ``gs://`` or ``az://`` address of a store says.

Serves the object store. Pure. An address holds no secret and has no place for one: credentials
come from where the tools of each cloud keep them (``objects_config``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from aysfs.errors import BadConfig

S3, GCS, AZURE = "s3", "gs", "az"
SCHEMES = (S3, GCS, AZURE)

_OPTIONS = {
    S3: ("endpoint", "region", "virtual_host", "profile", "anonymous"),
    GCS: ("endpoint", "anonymous"),
    AZURE: ("endpoint", "account", "anonymous"),
}
_FLAGS = ("virtual_host", "anonymous")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class ObjectAddress:
    """A place in an object store. ``str()`` is how messages name it: without the options."""

    scheme: str
    bucket: str
    prefix: str = ""  # no slash at either end
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def endpoint(self) -> str | None:
        return self.options.get("endpoint")

    def is_set(self, flag: str) -> bool:
        return self.options.get(flag) in _YES


def parse_object_address(url: str) -> ObjectAddress:
    """Read ``s3://bucket/prefix?endpoint=https://host&region=...``.

    Nothing of the URL is repeated in BadConfig: what is wrong with it may be a secret.
    """
    scheme = url.partition("://")[0].lower()
    example = f"{scheme}://{'container' if scheme == AZURE else 'bucket'}/prefix"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BadConfig(
            f"an {scheme}:// address with a bad name", hint=f"write {example}"
        ) from error
    if "@" in parts.netloc:
        raise BadConfig(
            f"an {scheme}:// address takes no login",
            hint="put credentials where the tools of that cloud have them: docs/object-store.md",
        )
    if not _BUCKET.fullmatch(parts.netloc) or ".." in parts.netloc or parts.fragment:
        raise BadConfig(f"an {scheme}:// address that names no store", hint=f"write {example}")
    prefix = unquote(parts.path).strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/") if prefix) or (
        _CONTROL.search(prefix) or "\ufffd" in prefix
    ):
        raise BadConfig(f"{scheme}://{parts.netloc}: no prefix of objects", hint=f"write {example}")
    return ObjectAddress(scheme, parts.netloc, prefix, _options(scheme, parts.query))


def _options(scheme: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    known = ", ".join(_OPTIONS[scheme])
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS[scheme]:
            raise BadConfig(
                f"an {scheme}:// address with an unknown option", hint=f"known: {known}"
            )
        if key in options or not value or _CONTROL.search(value):
            raise BadConfig(f"an {scheme}:// address with a bad `{key}`", hint="give it one value")
        if key in _FLAGS and value not in _YES + _NO:
            raise BadConfig(
                f"an {scheme}:// address with a bad `{key}`", hint="write true or false"
            )
        if key == "endpoint":
            value = check_endpoint(value, f"an {scheme}:// address")
        options[key] = value
    return options


def check_endpoint(text: str, where: str) -> str:
    """An endpoint without a slash at the end; BadConfig, which repeats nothing of it."""
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or "@" in parts.netloc or parts.query or parts.fragment:
        raise BadConfig(f"{where} with a bad endpoint", hint="write endpoint=https://host:port")
    return text.rstrip("/")
