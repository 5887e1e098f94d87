"""Entities into Milvus, batch by batch, so that afterwards it is known which are in."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.to_thread

from mcp_server_milvus.errors import ConnectionLost, DeadlineExceeded, Error, Interrupted, PartialWrite
from mcp_server_milvus.milvus.entities import Entity, batches
from mcp_server_milvus.milvus.filters import portable_key
from mcp_server_milvus.milvus.pool import ClientPool
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.waiting import ReportProgress

Operation = Literal["insert", "upsert"]


@dataclass
class Outcome:
    """What became of each batch. A batch is a range of entity numbers: first and last."""

    written: dict[tuple[int, int], Sequence[int | str]] = field(
        default_factory=dict[tuple[int, int], Sequence[int | str]]
    )
    unknown: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    failure: Error | None = None

    @property
    def count(self) -> int:
        """How many entities are in."""
        return sum(last - first + 1 for first, last in self.written)

    @property
    def ids(self) -> list[int | str]:
        """The primary keys of the written entities, in the order of the entities."""
        return [key for batch in sorted(self.written) for key in self.written[batch]]


@dataclass(frozen=True)
class Write:
    """One insert or upsert of any number of entities that fit the schema."""

    operation: Operation
    clients: ClientPool
    db_name: str
    collection_name: str
    partition_name: str
    schema: CollectionSchema
    report_progress: ReportProgress

    async def run(self, entities: Sequence[Entity]) -> Outcome:
        """Writes the entities, several batches at once where the backend allows it.

        Raises:
            PartialWrite: some batches are in or may be, others are not; the details say which.
            Error: what failed, when nothing was written.
        """
        outcome = Outcome()
        ranges = _numbered(await anyio.to_thread.run_sync(batches, entities, limiter=self.clients.computing))
        at_once = anyio.Semaphore((await self.clients.backend(self.db_name)).concurrent_writes)
        async with anyio.create_task_group() as tasks:
            for batch, members in ranges:
                await at_once.acquire()
                if outcome.failure:
                    break
                tasks.start_soon(self._write_one, batch, members, outcome, at_once.release)
                await self.report_progress(
                    outcome.count, len(entities), f"{self.operation} into {self.collection_name}"
                )
        if outcome.failure:
            raise self._explained(outcome, outcome.failure, len(entities)) from outcome.failure
        return outcome

    async def _write_one(
        self, batch: tuple[int, int], members: list[Entity], outcome: Outcome, release: Callable[[], None]
    ) -> None:
        try:
            async with self.clients.client(self.db_name) as client:
                write: Callable[..., Awaitable[Any]] = (
                    client.insert_entities if self.operation == "insert" else client.upsert_entities
                )
                result = await write(self.collection_name, members, self.schema, self.partition_name)
            outcome.written[batch] = list(result.primary_keys)
        except (DeadlineExceeded, ConnectionLost, Interrupted) as failure:
            outcome.unknown.append(batch)
            outcome.failure = failure
        except Error as failure:
            outcome.failure = failure
        finally:
            release()

    def _explained(self, outcome: Outcome, failure: Error, total: int) -> Error:
        if not (outcome.written or outcome.unknown):
            return failure
        return PartialWrite(
            f"{outcome.count} of {total} entities are known to be in; then {failure.code}: {failure.message}",
            hint="look for the entities whose outcome is unknown, then repeat the call with those that are missing",
            **{
                f"{self.operation}_count": outcome.count,
                "written": sorted(outcome.written),
                "outcome_unknown": sorted(outcome.unknown),
                "not_written": _gaps([*outcome.written, *outcome.unknown], total),
                **({"ids": list(map(portable_key, outcome.ids))} if self.schema.primary_key.auto_id else {}),
            },
        )


def _numbered(lists: Sequence[list[Entity]]) -> list[tuple[tuple[int, int], list[Entity]]]:
    numbered: list[tuple[tuple[int, int], list[Entity]]] = []
    first = 0
    for members in lists:
        numbered.append(((first, first + len(members) - 1), members))
        first += len(members)
    return numbered


def _gaps(ranges: Sequence[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    """The ranges of entity numbers below `total` that none of the given ranges covers."""
    gaps: list[tuple[int, int]] = []
    expected = 0
    for first, last in sorted(ranges):
        if first > expected:
            gaps.append((expected, first - 1))
        expected = last + 1
    return [*gaps, (expected, total - 1)] if expected < total else gaps
