"""What obstore says is the matter, as one line of ours.

Serves the object store. Owns which of its exceptions mean what. Its own words are many lines and
hold whole requests, signatures in them: only what is recognised here is passed on.
"""

import re
from typing import NamedTuple

from obstore.exceptions import BaseError

from aysfs.errors import StoreTrouble

ERRORS = (BaseError, OSError, NotImplementedError, ValueError)
"""All that a call of obstore raises, when nothing of ours runs inside it."""

_STATUS = re.compile(r"status code: (\d{3})(?: ([A-Za-z' -]+))?|status: (\d{3})")
_CODES = (  # how S3 and Azure, and how Google name what is the matter
    re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>"),
    re.compile(r'"reason\\?": ?\\?"([A-Za-z0-9.]{1,64})\\?"'),
)
_ROLES = re.compile(  # asked for credentials, and of nobody who has any
    r"/latest/(api/token|meta-data)|metadata/identity|computeMetadata|no credentials"
    r"|NoCredentials|MissingCredentials|az account",
    re.IGNORECASE,
)
_CREDENTIALS = "set its credentials in the environment: docs/object-store.md"
_NETWORK = (
    ("dns error|failed to lookup address", "its name cannot be resolved", None),
    ("ConnectionRefused|Connection refused", "connection refused", None),
    (
        "InvalidCertificate|UnknownIssuer|certificate",
        "its certificate is not trusted",
        "SSL_CERT_FILE or AWS_CA_BUNDLE names a file of certificates that are",
    ),
    ("InvalidContentType|InvalidMessage", "it does not speak TLS", "is it http:// there?"),
    ("kind: Timeout|TimedOut|operation timed out", "no answer in time", None),
    ("unreachable|Unreachable", "it cannot be reached", None),
    ("ConnectionReset|IncompleteMessage|ConnectionAborted|BrokenPipe|UnexpectedEof"
     "|kind: Request|kind: Body|kind: Decode|kind: Interrupted", "the connection was lost", None),
)  # fmt: skip
_HINTS = {
    "NoSuchBucket": "make the bucket first, or correct its name",
    "ContainerNotFound": "make the container first, or correct its name",
    "SignatureDoesNotMatch": "the secret does not belong to the key",
    "InvalidAccessKeyId": "nobody there knows this access key",
    "ExpiredToken": "get new credentials",
    "RequestTimeTooSkewed": "set the clock of this host",
    "AccessDenied": "these credentials may not do that",
    "AuthorizationHeaderMalformed": "is it the right region? `?region=...`",
    "PermanentRedirect": "is it the right region? `?region=...`",
}


class Answer(NamedTuple):
    """What was understood of an error."""

    status: int  # 0 without an answer
    code: str  # the store's word for it
    words: str
    hint: str | None


def understand(error: Exception) -> Answer:
    """The facts in an exception of obstore."""
    text = str(error)
    found = _STATUS.search(text)
    if _ROLES.search(text):
        return Answer(0, "", "no credentials were found", _CREDENTIALS)
    if found is None:
        for known, words, hint in _NETWORK:
            if re.search(known, text):
                return Answer(0, "", words, hint)
        return Answer(0, "", f"failed ({type(error).__name__})", None)
    status = int(found[1] or found[3])
    code = next((match[1] for known in _CODES if (match := known.search(text))), "")
    words = f"answered {status}" + (f" {found[2].strip()}" if found[2] else "")
    hint = _HINTS.get(code)
    if status in (401, 403):
        hint = hint or "are the credentials right, and may they do that?"
    return Answer(status, code, f"{words} ({code})" if code else words, hint)


def trouble(where: str, error: Exception) -> StoreTrouble:
    """What to raise for an error of obstore."""
    answer = understand(error)
    return StoreTrouble(f"{where}: {answer.words}", hint=answer.hint)


def is_not_there(error: Exception) -> bool:
    """Whether a store said, definitely, that there is no such object; or no such bucket."""
    return isinstance(error, FileNotFoundError)


def is_overtaken(error: Exception) -> bool:
    """Whether a write was accepted and has no effect: somebody's newer one was there already.

    Swift says so with 202 and no ETag (its proxy's ``PUT``, on a conflict of times); obstore has no
    other word for it than the missing ETag. An error of S3's inside a 200 is another exception.
    """
    text = str(error)
    return "ETag Header missing" in text or "missing field `ETag`" in text


def is_without_ranges(error: Exception) -> bool:
    """Whether a store answered a request for a part with the whole (object_store's NotPartial)."""
    return "non-partial response" in str(error)
