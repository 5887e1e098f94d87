"""A file into a collection, several requests at once, so that it is always known from where to go on.

What is known is one number: so many entities of the file, counted from its beginning, are in (or were wrong and left
out). Going on from there loses nothing. It duplicates nothing either: an upsert replaces what is there, and an insert
looks first which keys are there. Where Milvus generates the keys neither can be done, and one request goes at a time.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.to_thread

from mcp_server_milvus.errors import (
    AlreadyExists,
    ConnectionLost,
    DeadlineExceeded,
    Error,
    Internal,
    Interrupted,
    InvalidArgument,
    LimitExceeded,
    PartialWrite,
    Unavailable,
)
from mcp_server_milvus.milvus.capabilities import Backend
from mcp_server_milvus.milvus.entities import BATCH_BYTES, Entity, entity_bytes, needed_fields
from mcp_server_milvus.milvus.filters import portable_key
from mcp_server_milvus.milvus.fitting import Fitted, Fitting
from mcp_server_milvus.milvus.formats import Source
from mcp_server_milvus.milvus.packing import write_request
from mcp_server_milvus.milvus.pool import ClientPool
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.underway import KnownKeys, UnderWay
from mcp_server_milvus.milvus.waiting import ReportProgress, wait_for_index
from mcp_server_milvus.milvus.writing import Operation

LOGGER = logging.getLogger(__name__)

MAX_WRONG = 20
"""Entities that did not fit and are told of."""

LARGEST_REQUEST = 4 * BATCH_BYTES
"""A quarter of what a server takes in one request."""

PAUSES = (0.5, 4.0)
"""Seconds before an upsert is repeated: Milvus Lite writes nothing while it moves its memory to a file."""

SHOWN_KEYS, SHOWN_LENGTH = 5, 80
"""Keys that a message names, and the characters of each."""

OnError = Literal["stop", "skip"]

Fill = Callable[[Fitted], Iterator[Fitted]]
"""Gives entities the vectors that they lack, a part of the batch at a time, so that each is written while the next is
filled. Runs in a thread.
"""


def as_they_are(fitted: Fitted) -> Iterator[Fitted]:
    """For entities that lack nothing."""
    yield fitted


@dataclass
class Tally:
    """How far an import is. `safe` is the number from which another one goes on."""

    safe: int
    written: int = 0
    already_there: int = 0
    wrong_count: int = 0
    wrong: list[str] = field(default_factory=list[str])
    unknown: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    failure: Error | None = None
    _done: dict[int, int] = field(default_factory=dict[int, int])

    def note_done(self, first: int, end: int) -> None:
        """Notes that the entities from `first` up to `end` need no more work, whatever came of those before."""
        self._done[first] = end
        while self.safe in self._done:
            self.safe = self._done.pop(self.safe)

    def note_failure(self, failure: Error) -> None:
        """Notes what ends the import: of several failures the first, which may be the reason for the others."""
        self.failure = self.failure or failure

    def note_wrong(self, problems: list[str]) -> None:
        self.wrong_count += len(problems)
        self.wrong += problems[: MAX_WRONG - len(self.wrong)]

    @property
    def details(self) -> dict[str, Any]:
        """What a caller of an import that did not end well needs to know, JSON-safe."""
        told = {"already_there": self.already_there, "wrong_count": self.wrong_count, "wrong": self.wrong}
        return {"resume_from": self.safe, "import_count": self.written} | {
            name: value for name, value in told.items() if value
        }


@dataclass(frozen=True)
class _Request:
    """Entities that go into one request; `first` and `end` are the part of the file that is done with them."""

    first: int
    end: int
    entities: list[Entity]
    vectors: dict[str, Any]
    packed: Any
    keys: frozenset[int | str] = frozenset()


@dataclass
class _Look:
    """How an insert sees which keys are there: `moment` is the time that a read must have reached.

    A read that must see what this import has written itself takes far longer, so only one that has to does.
    """

    moment: int | None
    written: KnownKeys = field(default_factory=KnownKeys)


@dataclass(frozen=True)
class Import:
    """One file on its way into one collection. `resuming`: some of the entities may be in already."""

    clients: ClientPool
    db_name: str
    collection_name: str
    partition_name: str
    schema: CollectionSchema
    operation: Operation
    on_error: OnError
    source: Source
    fitting: Fitting
    resume_from: int
    resuming: bool
    report_progress: ReportProgress
    fill: Fill = as_they_are

    @property
    def generates_keys(self) -> bool:
        """Whether entities get new keys when they are written again, upserted ones too."""
        return self.schema.primary_key.auto_id

    @property
    def looks_first(self) -> bool:
        """Whether a repeated write would duplicate entities unless their keys are looked up."""
        return self.operation == "insert" and not self.generates_keys

    def reads(self, backend: Backend) -> bool:
        """Whether keys are looked up, so that the collection must be loaded."""
        elsewhere = len(self.schema.partition_names) > 1 and not self.schema.has_partition_key
        return self.looks_first or (self.operation == "upsert" and elsewhere and not backend.is_lite)

    async def run(self) -> Tally:
        """Imports what is left of the file.

        Raises:
            PartialWrite: some of it is in or may be; the details say from where to go on.
            Error: what failed, when nothing was written; the details say the same.
        """
        tally = Tally(self.resume_from)
        async with self.clients.client(self.db_name) as client:
            await client.require_partitions(
                self.collection_name, [self.partition_name] if self.partition_name else None
            )
            look = _Look(await client.moment()) if self.looks_first else None
            # Generated keys cannot be looked up, so there must be no entity in behind one that is not.
            under_way = UnderWay(1 if self.generates_keys else client.backend.concurrent_writes)
        requests = self._requests(tally)
        # `fill` waits for threads of the usual limiter, none of which may be held by those who wait.
        reading = anyio.CapacityLimiter(1)
        async with anyio.create_task_group() as tasks:
            while not tally.failure:
                request = await anyio.to_thread.run_sync(next, requests, None, limiter=reading)
                if request is None:
                    break
                await under_way.enter(request.first, request.keys)
                if tally.failure:  # of one that was under way until now
                    break
                tasks.start_soon(self._write, request, tally, look, under_way)
                await self._report(tally)
        await self._report(tally)
        if tally.failure:
            raise self._explained(tally, tally.failure) from tally.failure
        return tally

    async def wait_for_indexes(self, seconds: float) -> None:
        """Returns once what was imported is written out and every index covers it.

        Raises:
            Error: that failed or took too long; the entities are in.
        """
        async with self.clients.client(self.db_name, seconds=seconds) as client:
            await self.report_progress(self.source.total or 0, self.source.total, f"flushing {self.collection_name}")
            await client.flush(self.collection_name)
            for index in self.schema.indexes:
                await wait_for_index(client, self.collection_name, index.field_name, self.report_progress)

    async def _report(self, tally: Tally) -> None:
        await self.report_progress(
            tally.safe, self.source.total, f"{self.collection_name}: resume_from {tally.safe} would go on from here"
        )

    def _requests(self, tally: Tally) -> Iterator[_Request]:
        """The requests in the order of the file, up to the first entity that must stop it. Runs in a thread."""
        with _Ending(tally):
            for batch in self.source.batches:
                fitted = self.fitting.fit(batch)
                stops = bool(fitted.wrong) and self.on_error == "stop"
                if stops:
                    fitted = _before(fitted, min(fitted.wrong))
                for part in self.fill(fitted):
                    yield from self._packed(part)
                tally.note_wrong(list(fitted.wrong.values()))
                if stops:
                    raise self._wrong(fitted)

    def _packed(self, fitted: Fitted) -> Iterator[_Request]:
        name = self.schema.primary_key.name
        for part in _small_enough(fitted):
            packed = self._request(part.entities, part.matrices)
            keys = frozenset(() if self.generates_keys else (entity[name] for entity in part.entities))
            yield _Request(part.first, part.end, part.entities, part.matrices, packed, keys)

    def _request(self, entities: list[Entity], vectors: dict[str, Any]) -> Any:
        if not entities:
            return None
        return write_request(self.operation, self.collection_name, entities, vectors, self.schema, self.partition_name)

    async def _write(self, request: _Request, tally: Tally, look: _Look | None, under_way: UnderWay) -> None:
        outcome_known = False
        with _Ending(tally):
            try:
                sent = await self._sent_at_last(request, tally, look)
                outcome_known = True
                tally.written += len(sent.entities)
                tally.note_done(request.first, request.end)
            except Error as failure:
                outcome_known = not isinstance(failure, DeadlineExceeded | ConnectionLost | Interrupted)
                raise
            finally:
                if not outcome_known:
                    tally.unknown.append((request.first, request.end - 1))
                under_way.leave(request.first)

    async def _sent_at_last(self, request: _Request, tally: Tally, look: _Look | None) -> _Request:
        """As `_sent`; an upsert that can be repeated is, after a pause, when Milvus had no time for it."""
        for pause in PAUSES if self.operation == "upsert" and not self.generates_keys else ():
            try:
                return await self._sent(request, tally, look)
            except (DeadlineExceeded, Unavailable, LimitExceeded):
                await anyio.sleep(pause)
        return await self._sent(request, tally, look)

    async def _sent(self, request: _Request, tally: Tally, look: _Look | None) -> _Request:
        """What of the request was sent and carried out."""
        async with self.clients.client(self.db_name) as client:
            if look and request.keys:
                if look.written.may_have(request.keys):
                    look.moment = await client.moment()
                there = await client.keys_there(self.collection_name, list(request.keys), self.schema, look.moment)
                request = await self._without(request, there, tally)
            client.require_readable(request.entities, self.schema)
            if self.operation == "upsert":
                await client.require_nowhere_else(
                    self.collection_name, request.entities, self.schema, self.partition_name
                )
            if request.packed is not None:
                await client.send_write(request.packed, self.schema)
        if look:
            look.written.add(request.keys)
        return request

    async def _without(self, request: _Request, there: set[int | str], tally: Tally) -> _Request:
        """The request without the entities whose keys are there already.

        Raises:
            AlreadyExists: there are some, and nobody said that there may be.
        """
        if not there:
            return request
        if self.on_error == "stop" and not self.resuming:
            shown = ", ".join(repr(portable_key(key))[:SHOWN_LENGTH] for key in sorted(there, key=str)[:SHOWN_KEYS])
            raise AlreadyExists(
                f"{len(there)} entities of the file are there already, or twice in it, with keys {shown}",
                hint="mode: upsert replaces them; on_error: skip leaves them as they are",
            )
        key = self.schema.primary_key.name
        kept = [index for index, entity in enumerate(request.entities) if entity[key] not in there]
        entities = [request.entities[index] for index in kept]
        vectors = {name: matrix[kept] for name, matrix in request.vectors.items()}
        tally.already_there += len(request.entities) - len(kept)
        packed = await anyio.to_thread.run_sync(self._request, entities, vectors)
        return _Request(request.first, request.end, entities, vectors, packed, request.keys - there)

    def _wrong(self, fitted: Fitted) -> Error:
        needed = needed_fields(self.schema, self.fitting.from_text)
        hint = f"an entity needs: {needed}; on_error: skip leaves out what is wrong"
        if self.operation == "insert" and self.generates_keys:
            hint += f'; columns: {{"{self.schema.primary_key.name}": ""}} leaves out the keys of the file'
        return InvalidArgument(fitted.wrong[min(fitted.wrong)], hint=hint)

    def _explained(self, tally: Tally, failure: Error) -> Error:
        details = tally.details | ({"outcome_unknown": tally.unknown} if tally.unknown else {})
        if not (tally.written or tally.unknown):
            failure.details |= details
            return failure
        hint = f"mend that and call again with resume_from {tally.safe}: nothing is lost and nothing doubled"
        if tally.unknown and self.generates_keys:
            first, last = tally.unknown[0]
            hint = (
                f"entities {first} to {last} may be in, and with generated keys only their values tell: "
                f"look for one, then resume_from {last + 1} if it is there, or {first} if not"
            )
        return PartialWrite(
            f"{tally.written} entities are known to be in; then {failure.code}: {failure.message}",
            hint=f"{failure.hint}; {hint}" if failure.hint else hint,
            **details,
        )


class _Ending:
    """A block that ends the import when it fails. Whatever fails in it, it must be told from where to go on."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, traceback: object) -> bool:
        if not isinstance(failure, Exception):
            return False
        if not isinstance(failure, Error):
            LOGGER.error("an import failed", exc_info=failure)
            failure = Internal("import_file: a fault of this server", hint="its log has the details; report it")
        self._tally.note_failure(failure)
        return True


def _before(fitted: Fitted, number: int) -> Fitted:
    """The batch up to this entity."""
    kept = sum(each < number for each in fitted.numbers)
    return Fitted(
        fitted.first,
        number,
        fitted.numbers[:kept],
        fitted.entities[:kept],
        {name: matrix[:kept] for name, matrix in fitted.matrices.items()},
        {number: fitted.wrong[number]},
    )


def _small_enough(fitted: Fitted) -> Iterator[Fitted]:
    """The batch in parts that one request can hold."""
    size = sum(map(entity_bytes, fitted.entities)) + sum(matrix.nbytes for matrix in fitted.matrices.values())
    middle = len(fitted.entities) // 2
    if size <= LARGEST_REQUEST or not middle:
        yield fitted
        return
    for part in fitted.split(middle):
        yield from _small_enough(part)
