"""The id of the call that is under way: what its log lines, its requests to Milvus and its answer have in common."""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

META = "mcp-server-milvus/request_id"
HEADER = "x-request-id"
"""Where a caller may name its request: a key of `_meta`, and over HTTP a header."""

VALID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What may stand in a log, in a header and in gRPC metadata. An id that is anything else is no id."""

UNDER_WAY: ContextVar[str] = ContextVar("request_id", default="")
"""Empty between calls."""


def given_id(meta: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """What the caller names its request; empty if it does not."""
    return valid_id(meta.get(META)) or valid_id(headers.get(HEADER))


def valid_id(given: object) -> str:
    """The id itself, or nothing."""
    return given if isinstance(given, str) and VALID.fullmatch(given) else ""


@contextmanager
def under_way(request_id: str) -> Generator[None]:
    """While the block runs, and in the tasks and threads that begin in it, this is the call that is under way."""
    token = UNDER_WAY.set(request_id)
    try:
        yield
    finally:
        UNDER_WAY.reset(token)
