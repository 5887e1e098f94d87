"""How many calls there may be, and how much each may take: a call can ask for less than its limits, never for more."""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from mcp_server_milvus.errors import InvalidArgument, LimitExceeded, TooManyCalls
from mcp_server_milvus.policy import LOCAL, Judged
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.vocabulary import Effect, Toolset

META = "mcp-server-milvus/"
"""What the keys in a request's `_meta` begin with that lower a limit for this one call."""

LOWERED: dict[str, type[int] | type[float]] = {"timeout": float, "max_result_bytes": int, "max_scan": int}
LEAST_RESULT_BYTES = 1_024

REMEMBERED_CALLERS = 10_000
"""Of more, those who have not called for the longest time begin anew."""

MINUTE = 60.0
SHARE = 4
"""One caller of several has at most one part of so many of the calls at one time."""

Arguments = TypeVar("Arguments", bound=BaseModel)


@dataclass
class _Allowance:
    """What a caller has left at one moment."""

    calls: float
    at: float


class Gate:
    """What every call passes. Those that are too many are refused at once, never queued."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = settings.max_calls
        self._per_minute = settings.max_calls_per_minute
        self._clock = clock
        self._inside = 0
        self._waiting = 0
        self._of_caller = Counter[str]()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()

    @contextmanager
    def entered(self, caller: str) -> Generator[None]:
        """Lets one call of the caller in, for as long as the block runs.

        Raises:
            TooManyCalls: there are too many at this moment, or the caller has made too many in this minute.
        """
        self._require_room(self._inside)
        self._require_share(caller)
        if self._per_minute:
            self._take(caller)
        self._inside += 1
        self._of_caller[caller] += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._of_caller[caller] -= 1
            if not self._of_caller[caller]:
                del self._of_caller[caller]

    @contextmanager
    def left(self) -> Generator[None]:
        """Makes room for another call while the block runs, in which one that was let in waits for its user.

        Raises:
            TooManyCalls: too many wait for their users, or there is no room to come back.
        """
        self._require_room(self._waiting)
        self._inside -= 1
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._inside += 1
        self._require_room(self._inside - 1)

    def _require_room(self, taken: int) -> None:
        if taken >= self._most:
            raise TooManyCalls(
                f"{self._most} calls are under way, and this server allows no more at one time (max_calls)",
                hint="call again when they have ended",
            )

    def _require_share(self, caller: str) -> None:
        """Nothing, if the caller has not all that one may have; those that wait for their user count."""
        share = max(1, self._most // SHARE)
        if caller != LOCAL.name and self._of_caller[caller] >= share:
            raise TooManyCalls(
                f"{share} calls of this caller are under way, and this server allows one caller no more at one time"
                f" (max_calls: {self._most} for all)",
                hint="call again when they have ended",
            )

    def _take(self, caller: str) -> None:
        """One call less: each caller has as many as there may be in a minute, and gets them back evenly."""
        now = self._clock()
        left = self._allowances.setdefault(caller, _Allowance(self._per_minute, now))
        self._allowances.move_to_end(caller)
        if len(self._allowances) > REMEMBERED_CALLERS:
            self._allowances.popitem(last=False)
        per_second = self._per_minute / MINUTE
        left.calls = min(self._per_minute, left.calls + (now - left.at) * per_second)
        left.at = now
        if left.calls < 1:
            seconds = (1 - left.calls) / per_second
            raise TooManyCalls(
                f"this server allows {self._per_minute} calls of one caller in a minute (max_calls_per_minute)",
                hint=f"call again in {math.ceil(seconds)} s, and ask for more in one call",
                retry_after=math.ceil(seconds),
            )
        left.calls -= 1


def within_limits(tool: Judged, args: Arguments, settings: Settings) -> Arguments:
    """The arguments, with defaults that are above a limit lowered to it.

    Raises:
        LimitExceeded: one that was given is above its limit.
    """
    if tool.uses_files or tool.toolset not in {Toolset.SEARCH, Toolset.DATA}:
        return args
    fields = type(args).model_fields
    for number, leg in enumerate(cast("Any", args).legs if "legs" in fields else ()):
        _require_allowed(f"legs.{number}.limit", _amount(leg.limit), "max_entities_out", settings)
    lowered: dict[str, int] = {}
    for name, setting in _limited(tool):
        if name not in fields:
            continue
        amount, most = _amount(getattr(args, name)), getattr(settings, setting)
        if amount > most:
            if name in args.model_fields_set:
                _require_allowed(name, amount, setting, settings)
            lowered[name] = most
    return args.model_copy(update=lowered) if lowered else args


def lowered(settings: Settings, meta: Mapping[str, Any]) -> Settings:
    """The settings of a call whose `_meta` asks for less time, fewer bytes or fewer entities to look at.

    Raises:
        InvalidArgument: it asks for what is no amount.
    """
    asked = {name: value for name in LOWERED if (value := meta.get(META + name)) is not None}
    update = {name: min(_checked(name, value), getattr(settings, name)) for name, value in asked.items()}
    return settings.model_copy(update=update) if update else settings


def _require_allowed(name: str, amount: int, setting: str, settings: Settings) -> None:
    most = getattr(settings, setting)
    if amount > most:
        raise LimitExceeded(
            f"{name}: {amount}, where this server allows {most} ({setting})", hint=f"ask for at most {most} at once"
        )


def _limited(tool: Judged) -> tuple[tuple[str, str], ...]:
    """Arguments and the settings that bound them. Keys of a delete bring nothing out."""
    out = (("limit", "max_entities_out"), ("offset", "max_offset"), ("data", "max_entities_in"))
    return (*out, ("ids", "max_entities_out")) if tool.effect is Effect.READ else out


def _amount(value: Any) -> int:
    match value:
        case int():
            return value
        case list():
            return len(cast("list[Any]", value))
        case dict():  # of columns
            columns = cast("dict[str, Any]", value).values()
            return max((len(cast("list[Any]", each)) for each in columns if isinstance(each, list)), default=1)
        case _:
            return 0


def _checked(name: str, value: Any) -> float:
    kind = LOWERED[name]
    least = LEAST_RESULT_BYTES if name == "max_result_bytes" else 0
    fits = isinstance(value, int | kind) and not isinstance(value, bool) and least <= value < math.inf and value > 0
    if not fits:
        wanted = f"a number of at least {least}" if least else "a number above 0"
        raise InvalidArgument(f"_meta {META}{name}: must be {wanted}")
    return value
