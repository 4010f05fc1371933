"""Key pairs of ``sshkey`` instances. Serves ``instances``; the only place that runs ssh-keygen.

A private key is on disk with mode 0600 from its first byte, and never on a command line.
"""

import subprocess
import tempfile
from pathlib import Path

from aysfs.build.private import write_private
from aysfs.errors import AysfsError


class KeyFailed(AysfsError):
    """A key pair could not be made."""


def find_key(name: str, folder: Path, home: Path) -> Path | None:
    """The private key of this name: a person's own comes before the one of the instance."""
    return next((path for path in (home / name, folder / name) if path.is_file()), None)


def keep_key(name: str, text: str, folder: Path) -> Path:
    """Keep a private key that was given as text in the instance's folder."""
    path = folder / name
    data = text.rstrip("\n").encode() + b"\n"
    if not path.is_file() or path.read_bytes() != data:
        write_private(path, data)
    return path


def make_key(name: str, folder: Path) -> Path:
    """Make an ed25519 pair without a passphrase; the private half appears last."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".key-") as place:
        made = Path(place) / "key"
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(made)]
        try:
            result = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            raise KeyFailed(
                f"no key `{name}` can be made: ssh-keygen is not installed",
                hint="install the OpenSSH client (Debian: openssh-client)",
            ) from None
        if result.returncode:
            reason = result.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise KeyFailed(f"no key `{name}` can be made: ssh-keygen says: {reason}")
        made.with_suffix(".pub").replace(folder / f"{name}.pub")
        made.replace(folder / name)
    return folder / name
