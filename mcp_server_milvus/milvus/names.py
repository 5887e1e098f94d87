"""Names of databases, collections, partitions, fields and indexes, before they reach any backend."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from mcp_server_milvus.errors import InvalidArgument

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
"""Milvus's own rule. Milvus Lite does not enforce it: there a name is a path, and `../` leaves the database."""

RULE = "a name has letters, digits and _, does not begin with a digit, and is at most 255 long"


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
