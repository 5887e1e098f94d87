"""What of the database one caller can reach: which databases and collections there are for it, and which entities.

What is out of reach is not refused but absent: it is not listed, not found, not counted.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property

TRASH_PREFIX = "_dropped_"
"""What dropped collections are named until they are restored or purged. Nobody reaches them by such a name."""

IN_TRASH = re.compile(rf"{TRASH_PREFIX}[0-9]{{10}}_[0-9a-f]{{16}}")
"""Such a name: the second (Unix time) at which it may be purged, and a number of its own."""

Globs = tuple[str, ...]
"""Patterns of names, of which one must match; an empty tuple matches every name."""


def globs(text: str) -> Globs:
    """The patterns of a setting like `docs_*, notes`."""
    return tuple(filter(None, map(str.strip, text.split(","))))


@dataclass(frozen=True)
class Reach:
    """A caller's part of the database. Where several allow-lists hold, a name must be in each of them.

    `mandatory_filter` is AND-ed into every read and delete. `masked_fields` are patterns of `FIELD` or
    `COLLECTION.FIELD` whose values are never shown. `in_trash` is for this server's own work on dropped collections.
    """

    databases: tuple[Globs, ...] = ()
    collections: tuple[Globs, ...] = ()
    mandatory_filter: str = ""
    key_prefix: str = ""
    masked_fields: Globs = ()
    in_trash: bool = field(default=False, repr=False)

    @cached_property
    def is_restricted(self) -> bool:
        """Whether there is anything in the database that it does not reach."""
        return any(self.databases) or self.picks_collections or bool(self.mandatory_filter)

    @cached_property
    def picks_collections(self) -> bool:
        """Whether it reaches only some collections of a database."""
        return any(self.collections)

    def sees_database(self, db_name: str) -> bool:
        """Whether there is a database of this name for the caller."""
        return _in_all(self.databases, db_name or "default")

    def sees(self, collection_name: str) -> bool:
        """Whether there can be a collection, or an alias, of this name for the caller."""
        if collection_name.startswith(TRASH_PREFIX) and IN_TRASH.fullmatch(collection_name):
            return self.in_trash
        return _in_all(self.collections, collection_name)

    def masks(self, collection_name: str, field_name: str) -> bool:
        """Whether the values of this field are never shown."""
        qualified = f"{collection_name}.{field_name}"
        return any(fnmatchcase(qualified if "." in glob else field_name, glob) for glob in self.masked_fields)

    def would_unmask(self, collection_name: str, new_name: str) -> bool:
        """Whether fields are masked by a collection's name that might not be by another, dynamic ones too."""
        by_name = [glob.partition(".")[0] for glob in self.masked_fields if "." in glob]
        return any(fnmatchcase(collection_name, glob) and not fnmatchcase(new_name, glob) for glob in by_name)

    def with_trash(self) -> "Reach":
        """The same, dropped collections among it."""
        return replace(self, in_trash=True)

    def with_every_field(self) -> "Reach":
        """The same, with the values of fields that are never shown: for what is kept, and shown to nobody."""
        return replace(self, masked_fields=())


EVERYTHING = Reach(in_trash=True)
"""All that there is, for this server's own work."""


def unmatched(lists: Iterable[Globs], name: str) -> Globs:
    """The first patterns of which the name matches none; nothing if it is in each of the lists."""
    return next((globs for globs in lists if globs and not any(fnmatchcase(name, glob) for glob in globs)), ())


def _in_all(lists: Iterable[Globs], name: str) -> bool:
    return not any(lists) or not unmatched(lists, name)
