"""The way to one Docker engine, and what its failures are called.

Serves the engine and its containers. Owns the two clients of the SDK. The SDK's high-level
results are read from prose (its issue 1625), so the low-level API is used, whose answers are
structured. Its errors, and those of the libraries below it, end here.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import docker.errors
import requests.exceptions
import urllib3.exceptions
from docker import APIClient

from aysfs.errors import ServerTrouble

LOCAL = "unix:///var/run/docker.sock"
TIMEOUT = 60  # seconds for an answer of Docker itself; what runs in a container may take longer
_START_HINT = "is Docker running, and may this user use it?"


class Connection:
    """Clients of one engine. ``label`` names it in messages.

    ``api`` answers soon. ``patient`` waits for what a container says: a compiler may be silent for
    minutes.
    """

    def __init__(self, address: str = LOCAL, label: str = "Docker on this host") -> None:
        """ServerTrouble when nothing answers at the address."""
        self.label = label
        self.reach = ""  # what a person types before a command to run it on the engine's host
        with self.trouble("cannot be reached", hint=_START_HINT):
            self.api: Any = APIClient(base_url=address, version="auto", timeout=TIMEOUT)
            self.patient: Any = APIClient(base_url=address, version="auto", timeout=None)

    def close(self) -> None:
        self.api.close()
        self.patient.close()

    @contextlib.contextmanager
    def trouble(self, what: str, hint: str | None = None) -> Iterator[None]:
        """The SDK's errors, and those of the libraries below it, become ServerTrouble."""
        try:
            yield
        except docker.errors.APIError as error:
            reason = error.explanation or str(error)
            raise ServerTrouble(f"{self.label}: {what}: {_one_line(reason)}", hint=hint) from error
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,  # a stream that breaks off
        ) as error:
            reason = _reason(error)
            raise ServerTrouble(f"{self.label}: {what}: {reason}", hint=hint) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServerTrouble(f"{self.label}: {what}: {reason}", hint=hint) from error


def _reason(error: Exception) -> str:
    """What the system said, below the texts that three libraries wrap around it."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__context__
    return _one_line(str(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())
