"""What a ``web.export`` names, downloaded to a temporary file of the calling host.

Serves ``placing``. TLS is verified; a login and password in a url are sent and never shown.
"""

import contextlib
import email.utils
import hashlib
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import httpx

from aysfs.build.recipe import WebExport, without_credentials
from aysfs.errors import BuildFailed

MAX_SIZE = 16 << 30  # bytes of one download
TIMEOUT = 3600.0  # seconds for one download
SILENCE = 60.0  # seconds without a byte
REDIRECTS = 5

_MD5 = re.compile(r"\\?([0-9A-Fa-f]{32})\b")
_SUM_SIZE = 4096


class Download(NamedTuple):
    """A file that is there while its block lasts. ``time`` is what the server says, else 0."""

    url: str
    path: Path
    time: int


@contextlib.contextmanager
def download(export: WebExport, *, max_size: int = MAX_SIZE) -> Iterator[Download]:
    """Fetch what an export names; BuildFailed when it cannot be, or its md5 is not the promised."""
    base, login, passwd = without_credentials(export.url)
    one = _Fetch(export, f"{base.rstrip('/')}/{export.source}" if export.source else base)
    auth = httpx.BasicAuth(login or "", passwd or "") if login or passwd else None
    with (
        tempfile.NamedTemporaryFile(prefix="aysfs-web-") as file,
        httpx.Client(
            auth=auth,
            headers={"Accept-Encoding": "identity"},
            timeout=SILENCE,
            follow_redirects=True,
            max_redirects=REDIRECTS,
        ) as client,
    ):
        modified, md5 = one.fetch(client, one.url, file, max_size)
        file.flush()
        if export.checkmd5:
            one.check(client, md5)
        yield Download(one.url, Path(file.name), modified)


class _Fetch:
    """One export's url."""

    def __init__(self, export: WebExport, url: str) -> None:
        self.url = url
        self._key = export.key

    def refuse(self, reason: str) -> NoReturn:
        raise BuildFailed(f"{self._key}: {self.url}: {reason}")

    def fetch(
        self, client: httpx.Client, url: str, file: IO[bytes], max_size: int
    ) -> tuple[int, str]:
        """Write what a url gives to a file; its time and md5."""
        end = time.monotonic() + TIMEOUT
        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        try:
            with client.stream("GET", url) as answer:
                if answer.status_code != httpx.codes.OK:
                    self.refuse(f"{_tail(url)}the server says {answer.status_code}")
                if url.startswith("https:") and answer.url.scheme != "https":
                    self.refuse("the server leads away from https")
                for data in answer.iter_raw():
                    size += len(data)
                    if size > max_size:
                        self.refuse(f"is larger than {max_size} bytes")
                    if time.monotonic() > end:
                        self.refuse(f"is not here within {TIMEOUT:.0f} seconds")
                    digest.update(data)
                    file.write(data)
                return _time(answer.headers.get("Last-Modified", "")), digest.hexdigest()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self.refuse(
                f"cannot be downloaded: {' '.join(str(error).split()) or type(error).__name__}"
            )
        except OSError as error:
            self.refuse(f"cannot be kept: {error.strerror or error}")

    def check(self, client: httpx.Client, md5: str) -> None:
        """Compare with ``<url>.md5sum``, in the form of md5sum(1)."""
        with tempfile.TemporaryFile() as file:
            self.fetch(client, f"{self.url}.md5sum", file, _SUM_SIZE)
            file.seek(0)
            promised = _MD5.match(file.read().decode(errors="replace").strip())
        if promised is None:
            self.refuse(".md5sum holds no md5")
        if promised[1].lower() != md5:
            self.refuse(f"its md5 is {md5}, and .md5sum says {promised[1].lower()}")


def _tail(url: str) -> str:
    return ".md5sum: " if url.endswith(".md5sum") else ""


def _time(said: str) -> int:
    """A time as HTTP writes it, in seconds; 0 when it is none."""
    try:
        return max(0, int(email.utils.parsedate_to_datetime(said).timestamp()))
    except ValueError:
        return 0
