"""What nobody may see of a value: passwords and private keys.

Serves every place that shows values. The file itself holds them in the clear; its mode
protects it.
"""

import re

from aysfs.build.hrd.values import Value

MASK = "****"

_SECRET = re.compile(r"(?:.*\.)?(?:password|passwd|key\.priv|key\.pass)")
_IN_URL = re.compile(r"(?<=://)[^/@\s]*:[^/\s]*@")


def is_secret(key: str) -> bool:
    """Whether the value of this key is never shown."""
    return _SECRET.fullmatch(key.lower()) is not None


def hide_in_url(text: str) -> str:
    """A text without the passwords in its URLs."""
    return _IN_URL.sub(f"{MASK}@", text)


def masked(key: str, value: Value) -> Value:
    """A value as it may be shown. An empty one shows that there is nothing to hide."""
    if is_secret(key):
        return value if value in ("", None) else MASK
    if isinstance(value, dict):
        return {name: masked(name, one) for name, one in value.items()}
    if isinstance(value, list):
        return [masked(key, one) for one in value]
    return hide_in_url(value) if isinstance(value, str) else value
