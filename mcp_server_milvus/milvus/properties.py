"""Properties of collections that Milvus does not keep itself: in a file, shared by all servers of the user."""

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread

from mcp_server_milvus.errors import Denied
from mcp_server_milvus.milvus.locks import FileLock, Patience
from mcp_server_milvus.milvus.schema import CollectionSchema

FILE, LOCK = "properties.json", "properties.lock"
LOCK_SECONDS = 5.0
"""How long another server may hold the file: writing it takes milliseconds."""

LOGGER = logging.getLogger(__name__)

Kept = dict[str, dict[str, str]]


class KeptProperties:
    """The properties that this server keeps for the collections of one Milvus.

    They belong to a collection's identity: a later one of the same name has none of them. Those of collections that
    were dropped stay in the file, for nobody tells a server what others drop.

    `changing` is what a call holds while it reads a property and writes it anew.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder.expanduser().absolute()
        self._uri = uri
        self.changing = anyio.Lock()

    async def completed(self, db_name: str, schema: CollectionSchema) -> CollectionSchema:
        """The schema with what is kept here of its collection. What Milvus itself keeps counts first."""
        kept = (await anyio.to_thread.run_sync(self._read)).get(self._key(db_name, schema))
        return replace(schema, properties={**kept, **schema.properties}) if kept else schema

    async def keep(self, db_name: str, schema: CollectionSchema, properties: Mapping[str, str]) -> None:
        """Keeps these properties of a collection, beside those that are kept of it already.

        Raises:
            Denied: the data folder cannot be written.
            Unavailable: other servers hold the file all the time.
        """
        key = self._key(db_name, schema)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._add, key, properties)

    def _key(self, db_name: str, schema: CollectionSchema) -> str:
        named = schema.identity if schema.identity != "0" else f"collection {schema.described['collection_id']}"
        return f"{self._uri} {db_name} {named}"

    def _read(self) -> Kept:
        try:
            return _parsed((self._folder / FILE).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as problem:
            LOGGER.warning("%s cannot be read, and counts as empty: %s", self._folder / FILE, problem)
            return {}

    def _add(self, key: str, properties: Mapping[str, str]) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(self._folder / LOCK)
            patience = Patience(LOCK_SECONDS, threading.Event())
            try:
                patience.until(lock.try_exclusive, "other servers are writing the properties of their collections")
                self._set_aside_if_unreadable()
                kept = self._read()
                self._replace({**kept, key: {**kept.get(key, {}), **properties}})
            finally:
                lock.release()
        except OSError as problem:
            raise Denied(
                f"Milvus does not keep the property, nor does the server's data folder: {problem.strerror}",
                hint="the operator makes the data folder writable, or lets the account alter collections",
            ) from problem

    def _set_aside_if_unreadable(self) -> None:
        file = self._folder / FILE
        try:
            _parsed(file.read_bytes())
        except FileNotFoundError:
            return
        except ValueError:
            file.replace(file.with_suffix(f".{time.time_ns()}.unreadable"))

    def _replace(self, kept: Kept) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=FILE)  # for the user's eyes only
        unfinished = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(kept, file, indent=1)
                file.flush()
                os.fsync(descriptor)
            unfinished.replace(self._folder / FILE)
        finally:
            unfinished.unlink(missing_ok=True)


def _parsed(text: bytes) -> Kept:
    """What the file holds. Raises ValueError when that is not what this server writes."""
    kept: Any = json.loads(text)
    match kept:
        case dict() if all(_is_properties(each) for each in cast("dict[str, Any]", kept).values()):
            return cast("Kept", kept)
        case _:
            raise ValueError("no properties of collections")


def _is_properties(each: Any) -> bool:
    return isinstance(each, dict) and all(isinstance(value, str) for value in cast("dict[str, Any]", each).values())
