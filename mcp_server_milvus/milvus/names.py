"""Names of databases, collections, partitions, fields and indexes, before they reach any backend."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from mcp_server_milvus.errors import InvalidArgument

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
"""Milvus's own rule. Milvus Lite does not enforce it: there a name is a path, and `../` leaves the database."""

RULE = "a name has letters, digits and _, does not begin with a digit, and is at most 255 long"


USER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
ROLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,254}")
"""Milvus's own rules too. It checks them when it creates users and roles, and nowhere else."""

SNAPSHOT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
"""Wide enough for every example in Milvus's documentation, and no path."""

ANY = "*"
"""In place of a name: every privilege, object or database."""


def is_name(text: str) -> bool:
    """Whether the text is a name that every backend accepts."""
    return NAME.fullmatch(text) is not None


def require_name(argument: str, text: str) -> str:
    """The name itself.

    Raises:
        InvalidArgument: it is no name; the message names the argument.
    """
    if not is_name(text):
        raise InvalidArgument(f"{argument}: {text[:80]!r} is not a name; {RULE}")
    return text


def _checked(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text[:80]!r} is not a name; {RULE}")
    return text


Name = Annotated[str, AfterValidator(_checked), Field()]
"""An argument that must be a name."""


def _user(text: str) -> str:
    return _ruled(text, USER_NAME, "a user's has letters, digits and _, begins with a letter, and is at most 32 long")


def _role(text: str) -> str:
    return _ruled(text, ROLE_NAME, "a role's has letters, digits, _ and $, and does not begin with a digit or $")


def _snapshot(text: str) -> str:
    return _ruled(text, SNAPSHOT_NAME, "a snapshot's has letters, digits, _, - and .")


def _or_any(text: str) -> str:
    return text if text == ANY else _checked(text)


def _ruled(text: str, rule: re.Pattern[str], words: str) -> str:
    if not rule.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a name; {words}")
    return text


UserName = Annotated[str, AfterValidator(_user)]
RoleName = Annotated[str, AfterValidator(_role)]
SnapshotName = Annotated[str, AfterValidator(_snapshot)]
NameOrAny = Annotated[str, AfterValidator(_or_any)]
"""Arguments that must be names by other rules."""
