"""What was looked at and what came of it, and what to try: short, whatever is stored and whatever was asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mcp_server_milvus.compact import compact, json_size
from mcp_server_milvus.errors import (
    Conflict,
    EmbedderFailed,
    Error,
    InvalidArgument,
    InvalidFilter,
    LimitExceeded,
    NotFound,
    NotLoaded,
    NotSupported,
    StaleSchema,
)
from mcp_server_milvus.milvus.filter_help import explained
from mcp_server_milvus.milvus.pool import Translation
from mcp_server_milvus.milvus.results import plain_value
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.tool import Output

REFUSALS = (InvalidArgument, NotFound, Conflict, NotSupported, EmbedderFailed, LimitExceeded)
"""Errors that say why a search does not work."""

LONGEST_FINDING = 800
SHOWN_FILTER, SHOWN_VALUE = 120, 60
"""Characters of a finding, and of a filter and a stored value in it."""

SOUGHT = frozenset({"text", "vector", "id"})

OF_SEARCH_ALONE = frozenset({"anns_field", "radius", "range_filter", "exact", "params", "mode"})
"""Arguments of a search that a query has not, which is advised where nothing is sought."""

SHOWN_ARGUMENTS = 1_000
"""Bytes of arguments that an advice repeats: a vector may take as many as all the rest of an answer."""

MOST_ADVICE = 5
EXPECTED = "expected_id"
NOTHING_WRONG = "nothing: the search works, and finds it"
NAME_ONE = "name in expected_id an entity that should be found: nothing else stands in the way"


class State(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Check(Output):
    """One thing that was looked at."""

    check: str
    state: State
    finding: str | None = None


class Advice(Output):
    """What to do, and the call that does it."""

    do: str
    tool: str | None = None
    arguments: dict[str, Any] | None = None


@dataclass
class Findings:
    """The checks in the order in which they were made. `asked` are the arguments of the search that is looked into."""

    asked: Mapping[str, Any]
    checks: list[Check] = field(default_factory=list[Check])
    _advice: list[tuple[State, Advice]] = field(default_factory=list[tuple[State, Advice]])

    @property
    def advice(self) -> list[Advice]:
        """What to try: first what mends a problem."""
        found = [advice for state in (State.PROBLEM, State.WARNING) for each, advice in self._advice if each is state]
        if not found and all(check.state is State.OK for check in self.checks):
            return [Advice(do=NOTHING_WRONG if any(check.check == EXPECTED for check in self.checks) else NAME_ONE)]
        return [advice for place, advice in enumerate(found) if advice not in found[:place]][:MOST_ADVICE]

    def restart(self) -> None:
        """Forgets what was put down."""
        self.checks.clear()
        self._advice.clear()

    def first(self, check: str, state: State = State.OK, finding: str = "") -> None:
        """Puts down what came of a check before all others."""
        self.tell(check, state, finding)
        self.checks.insert(0, self.checks.pop())

    def tell(self, check: str, state: State = State.OK, finding: str = "") -> None:
        """Puts down what came of a check."""
        told = finding if len(finding) <= LONGEST_FINDING else f"{finding[:LONGEST_FINDING]}…"
        self.checks.append(Check(check=check, state=state, finding=told or None))

    def advise(self, state: State, do: str, tool: str | None = None, **arguments: Any) -> None:
        """Puts down what to try about something of this state."""
        told = do if len(do) <= LONGEST_FINDING else f"{do[:LONGEST_FINDING]}…"
        named = {"db_name"} if tool == "list_collections" else {"collection_name", "db_name"}
        own = {name: value for name, value in self.asked.items() if name in named}
        self._advice.append((state, Advice(do=told, tool=tool, arguments=own | arguments if tool else None)))

    def search_with(self, state: State, do: str, **changes: Any) -> None:
        """Puts down the same search with these arguments changed; None leaves one out."""
        tool = "search" if SOUGHT & self.asked.keys() else "query"
        wanted = {name: value for name, value in {**self.asked, **changes}.items() if value is not None}
        if tool == "query":
            wanted = {name: value for name, value in wanted.items() if name not in OF_SEARCH_ALONE}
        if json_size(wanted) > SHOWN_ARGUMENTS:
            left_out = [name for name, value in changes.items() if value is None and name in self.asked]
            do = f"{do}: the other arguments as before{', without ' if left_out else ''}{', '.join(left_out)}"
            wanted = {name: value for name, value in changes.items() if value is not None}
        short = wanted if json_size(wanted) <= SHOWN_ARGUMENTS else None
        self._advice.append((state, Advice(do=do, tool=tool, arguments=short or None)))

    def refused(self, check: str, schema: CollectionSchema | None = None) -> "Refused":
        """A block whose refusal is a problem. One that another attempt may mend goes on.

        The schema tells what is wrong with a filter.
        """
        return Refused(self, check, schema)

    def tell_refusal(self, check: str, refusal: Error) -> None:
        """Puts down a refusal as a problem."""
        self.tell(check, State.PROBLEM, refusal.message)
        if refusal.hint:
            self.advise(State.PROBLEM, refusal.hint)


@dataclass(frozen=True)
class Refused:
    """Puts down a refusal, and goes on after the block."""

    findings: Findings
    check: str
    schema: CollectionSchema | None

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Whether the block was left by a refusal, which is put down now."""
        try:
            Translation("Milvus").__exit__(kind, error, trace)
        except REFUSALS as translated:
            error = translated
        if not isinstance(error, REFUSALS) or isinstance(error, NotLoaded | StaleSchema):
            return False
        if isinstance(error, InvalidFilter) and self.schema:
            error = explained(error, self.schema)
        self.findings.tell_refusal(self.check, error)
        return True


def shown_filter(text: str) -> str:
    """The filter, or its beginning, as findings quote it."""
    line = " ".join(text.split())
    return f"`{line if len(line) <= SHOWN_FILTER else f'{line[:SHOWN_FILTER]}…'}`"


def shown_value(value: Any) -> str:
    """A stored value, or its beginning, as findings quote it."""
    text = compact(plain_value(None, value))
    return text if len(text) <= SHOWN_VALUE else f"{text[:SHOWN_VALUE]}…"


def shown_score(score: float) -> str:
    """With the digits that a search can mean."""
    return f"{score:.6g}"
