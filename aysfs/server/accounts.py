"""Who may read, write and delete, and how a password is checked.

Serves the server's application. Owns the accounts of one file and what it remembers of
passwords that were right. Passwords are kept as scrypt hashes (RFC 7914), which take 50 ms of
a core on purpose; a login that was checked is remembered, keyed by a secret of this process, so
that only its first request pays. Nothing here is logged or printed.
"""

import base64
import binascii
import enum
import hashlib
import hmac
import os
import tomllib
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import trio

from aysfs.errors import BadConfig

_COST = {"n": 1 << 14, "r": 8, "p": 1}
_MEMORY = 64 << 20
_REMEMBERED = 1024
_LONGEST = 1024  # characters of an Authorization header
_KEYS = {"login", "password", "read", "write", "delete"}


class Right(enum.Flag):
    """What a request needs, and an account has."""

    NONE = 0
    READ = enum.auto()
    WRITE = enum.auto()
    DELETE = enum.auto()


class Account(NamedTuple):
    """One that may log in; ``login`` is empty for those who need not."""

    login: str
    rights: Right


class Accounts:
    """Logins and passwords; without any, everybody has the rights of ``anonymous``."""

    def __init__(self, anonymous: Right) -> None:
        self._anonymous = Account("", anonymous)
        self._known: dict[str, tuple[Account, str]] = {}
        self._secret = os.urandom(32)
        self._checked: OrderedDict[bytes, Account | None] = OrderedDict()
        self._one_at_a_time = trio.CapacityLimiter(1)  # a flood of guesses takes one core, not all
        self._nobodys = ""  # an unknown login takes as long as a wrong password

    def add(self, account: Account, password_hash: str) -> None:
        """Have one account more."""
        self._known[account.login] = account, password_hash
        self._nobodys = self._nobodys or hash_password(os.urandom(16).hex())

    @property
    def are_open(self) -> bool:
        """Whether nobody needs a login."""
        return not self._known

    async def of(self, header: str | None) -> Account | None:
        """Whose request it is, by its Authorization header; None for a login that is wrong."""
        if not self._known:
            return self._anonymous
        if header is None or len(header) > _LONGEST:
            return None
        key = hashlib.blake2b(header.encode(), key=self._secret).digest()
        if key not in self._checked:
            account = await self._check(header)
            self._checked[key] = account
            if len(self._checked) > _REMEMBERED:
                self._checked.popitem(last=False)
        return self._checked.get(key)

    async def _check(self, header: str) -> Account | None:
        login, password = _basic(header)
        account, wanted = self._known.get(login, (None, self._nobodys))
        right = await trio.to_thread.run_sync(
            is_password, password, wanted, limiter=self._one_at_a_time
        )
        return account if right else None


def read_accounts(path: Path) -> Accounts:
    """The accounts of a TOML file; BadConfig names the file and never a password."""
    try:
        with path.open("rb") as file:
            entries = tomllib.load(file)
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: not TOML") from error
    found = entries.pop("accounts", None)
    if entries or not isinstance(found, list) or not found:
        raise BadConfig(f"{path}: nothing but [[accounts]], and one at least, belongs here")
    accounts = Accounts(Right.NONE)
    logins: set[str] = set()
    for number, entry in enumerate(found, 1):
        account, password_hash = _account(f"{path}: account {number}", entry)
        if account.login in logins:
            raise BadConfig(f"{path}: account {number}: the login `{account.login}` is there twice")
        logins.add(account.login)
        accounts.add(account, password_hash)
    return accounts


def _account(where: str, entry: object) -> tuple[Account, str]:
    if not isinstance(entry, dict) or entry.keys() - _KEYS:
        raise BadConfig(f"{where}: an account has {', '.join(sorted(_KEYS))}")
    login, password = entry.get("login"), entry.get("password")
    if not isinstance(login, str) or not login.isprintable() or not login or ":" in login:
        raise BadConfig(f"{where}: `login` must be a name without `:`")
    if not isinstance(password, str) or _parse(password) is None:
        raise BadConfig(
            f"{where}: `password` must be the hash of one",
            hint="`aysfs store passwd` prints the hash of a password",
        )
    rights = Right.NONE
    for right in (Right.READ, Right.WRITE, Right.DELETE):
        name = str(right.name).lower()
        value = entry.get(name, False)
        if not isinstance(value, bool):
            raise BadConfig(f"{where}: `{name}` must be true or false")
        rights |= right if value else Right.NONE
    return Account(login, rights), password


def hash_password(password: str) -> str:
    """What the accounts file keeps of a password: ``scrypt$n$r$p$salt$hash``."""
    salt = os.urandom(16)
    key = hashlib.scrypt(password.encode(), salt=salt, maxmem=_MEMORY, dklen=32, **_COST)
    numbers = "$".join(str(number) for number in _COST.values())
    return f"scrypt${numbers}${salt.hex()}${key.hex()}"


def is_password(password: str, password_hash: str) -> bool:
    """Whether the hash is of this password; takes as long for a wrong one."""
    parsed = _parse(password_hash)
    if parsed is None:
        return False
    cost, salt, key = parsed
    found = hashlib.scrypt(password.encode(), salt=salt, maxmem=_MEMORY, dklen=len(key), **cost)
    return hmac.compare_digest(found, key)


def _parse(password_hash: str) -> tuple[dict[str, int], bytes, bytes] | None:
    """Cost, salt and key of a hash; None for what is no hash, or asks for too much memory."""
    parts = password_hash.split("$")
    try:
        kind, n, r, p, salt, key = parts
        cost = {"n": int(n), "r": int(r), "p": int(p)}
        salt_bytes, key_bytes = bytes.fromhex(salt), bytes.fromhex(key)
    except ValueError:
        return None
    power_of_two = cost["n"] > 1 and cost["n"] & (cost["n"] - 1) == 0
    fits = power_of_two and 0 < cost["r"] <= 16 and 0 < cost["p"] <= 16
    if kind != "scrypt" or not fits or 128 * cost["n"] * cost["r"] > _MEMORY // 2:
        return None
    return (cost, salt_bytes, key_bytes) if len(key_bytes) >= 16 else None


def _basic(header: str) -> tuple[str, str]:
    """Login and password of a header of HTTP Basic; empty ones for any other."""
    kind, _, text = header.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        login, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return login, password
