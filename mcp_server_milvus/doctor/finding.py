"""What a check has found, and what checks are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mcp_server_milvus.app import App
from mcp_server_milvus.milvus.capabilities import Backend
from mcp_server_milvus.settings import Settings

MOST_SECONDS = 20.0
"""That one check may take, however long a call may."""


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """One line: what was checked, how it is, what was seen, and what to do if that is not good."""

    check: str
    state: State
    said: str
    remedy: str = ""


@dataclass
class Examined:
    """What checks look at, and what they have learned: what cannot work is not tried again.

    `listens`: the port of Milvus accepts connections. `backend` is there once Milvus has answered.
    """

    settings: Settings
    origins: Mapping[str, str]
    app: App
    listens: bool = False
    backend: Backend | None = None
    every_embedder_answers: bool = True


def ok(check: str, said: str) -> Finding:
    return Finding(check, State.OK, said)


def warning(check: str, said: str, remedy: str) -> Finding:
    return Finding(check, State.WARNING, said, remedy)


def failure(check: str, said: str, remedy: str) -> Finding:
    return Finding(check, State.FAILURE, said, remedy)


def seconds_of_a_check(settings: Settings) -> float:
    return min(settings.timeout, MOST_SECONDS)
