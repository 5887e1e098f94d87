"""Every failure that a caller may see, as one closed tree.

    Error
    ├── InvalidArgument      an argument does not fit the tool, the schema or the backend's limits
    │   └── InvalidFilter    the filter expression does not parse or names no field
    ├── NotFound             no such database, collection, field, partition, index or entity
    ├── AlreadyExists        the name is taken by something different
    ├── Conflict             the state forbids it now (loaded, in use); the hint says what to do first
    │   ├── NotLoaded        the collection is not loaded, so it cannot be read
    │   └── StaleSchema      the collection is not the one that this server has known; nothing was done
    ├── NotSupported         the connected backend cannot do this
    ├── Denied               the server's settings or the Milvus account do not allow it
    │   └── Unconfirmed      it would destroy something and nobody has confirmed that; nothing was done
    ├── LimitExceeded        too large, too many, or the backend's quota is used up
    │   └── TooManyCalls     too many calls at one time, or in one minute; nothing was done
    ├── PartialWrite         some entities of the call are in, the others are not
    ├── Unavailable          Milvus could not be reached; nothing was done
    │   └── ConnectionLost   it was reached, and then the connection broke: whether it happened is unknown
    ├── DeadlineExceeded     the time was up; whether it happened is unknown
    ├── MilvusFailed         Milvus refused or failed for a reason of its own
    │   └── Interrupted      it failed in the middle: whether it happened is unknown
    ├── EmbedderFailed       the embedder refused a text, or answered with what is no embedding; nothing was done
    │   └── EmbedderUnavailable  it could not be reached or had no time; nothing was done
    └── Internal             a fault of this server

Each has a `code` (stable, for programs), a `message` (what happened and what was expected), a `hint` (what to do
next) and `retriable` (whether the same call may succeed later). The messages are written for a language model and
never carry a token, a password or a stack trace.
"""

from typing import Any, ClassVar

LONGEST_TOLD = 4_000
"""Characters of a message, and of a hint: both repeat what others wrote, of any length."""


class Error(Exception):
    """A failure with a message for the caller. Raised only through its subclasses."""

    code: ClassVar[str]
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def as_dict(self) -> dict[str, Any]:
        """`{"code", "message", "hint", "retriable", …}`, JSON-safe: what goes out as structured content."""
        return {
            "code": self.code,
            "message": _cut(self.message),
            "hint": _cut(self.hint),
            "retriable": self.retriable,
        } | self.details


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}…"


class InvalidArgument(Error):
    """An argument does not fit the tool, the schema or the backend's limits; nothing was done."""

    code = "invalid_argument"


class InvalidFilter(InvalidArgument):
    """The filter expression does not parse, or names no field; nothing was done."""

    code = "invalid_filter"


class NotFound(Error):
    """No such database, collection, field, partition, index or entity."""

    code = "not_found"


class AlreadyExists(Error):
    """The name is taken by something different."""

    code = "already_exists"


class Conflict(Error):
    """The state forbids it now; the hint says what to do first."""

    code = "conflict"


class NotLoaded(Conflict):
    """The collection is not loaded, so it cannot be read."""

    code = "not_loaded"


class StaleSchema(Conflict):
    """The collection is not the one that this server has known; nothing was done."""

    def __init__(self, collection_name: str) -> None:
        super().__init__(
            f"collection {collection_name!r} is not the one that it was: another client changed it; nothing was done",
            hint="describe_collection shows what it is now; then call again if that is what you mean",
        )


class NotSupported(Error):
    """The connected backend cannot do this; the message names it and what it can."""

    code = "not_supported"


class Denied(Error):
    """The server's settings or the Milvus account do not allow it."""

    code = "denied"


class Unconfirmed(Denied):
    """It would destroy something and nobody has confirmed that; nothing was done. The details say what."""

    code = "confirmation_required"


class LimitExceeded(Error):
    """Too large, too many, or the backend's quota is used up."""

    code = "limit_exceeded"


class TooManyCalls(LimitExceeded):
    """Too many calls at one time, or in one minute; nothing was done."""

    retriable = True


class PartialWrite(Error):
    """Some entities of the call are in, the others are not; the details say which."""

    code = "partial_write"


class Unavailable(Error):
    """Milvus could not be reached."""

    code = "milvus_unavailable"
    retriable = True


class ConnectionLost(Unavailable):
    """The connection broke during the call. For a write, whether it happened is unknown."""


class DeadlineExceeded(Error):
    """The time was up. For a write, whether it happened is unknown."""

    code = "deadline_exceeded"
    retriable = True


class MilvusFailed(Error):
    """Milvus refused or failed for a reason of its own."""

    code = "milvus_error"


class Interrupted(MilvusFailed):
    """Milvus failed in the middle of the call. For a write, whether it happened is unknown."""


class EmbedderFailed(Error):
    """The embedder refused a text, or answered with what is no embedding; nothing was done."""

    code = "embedder_failed"


class EmbedderUnavailable(EmbedderFailed):
    """The embedder could not be reached or had no time; nothing was done."""

    code = "embedder_unavailable"
    retriable = True


class Internal(Error):
    """A fault of this server; the log has the details."""

    code = "internal"
