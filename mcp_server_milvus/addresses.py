"""Addresses of what can be read as a resource: `milvus://DATABASE/COLLECTION`, an entity below it, and the guides."""

from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

SCHEME = "milvus://"
GUIDES = "guide"
"""In place of a database. One that is called so has no addresses."""

DEFAULT = "default"
"""What Milvus calls the database of an account that names none."""

LONGEST = 4_096
"""Characters of an address; a key may have many more, and is then read by the tool `get` alone."""

COLLECTION_TEMPLATE = SCHEME + "{db}/{collection}"
ENTITY_TEMPLATE = COLLECTION_TEMPLATE + "/{id}"


@dataclass(frozen=True)
class Address:
    """A collection, or one of its entities."""

    db_name: str
    collection_name: str
    id: str | None = None


def guide_address(name: str) -> str:
    """That of a guide."""
    return f"{SCHEME}{GUIDES}/{name}"


def collection_address(db_name: str, collection_name: str) -> str:
    """That of a collection."""
    return f"{SCHEME}{_part(db_name or DEFAULT)}/{_part(collection_name)}"


def entity_template(db_name: str, collection_name: str) -> str:
    """Those of a collection's entities, with `{id}` for the key."""
    return f"{collection_address(db_name, collection_name)}/{{id}}"


def parsed(uri: str) -> Address | None:
    """What an address leads to; None if it is none of a collection or an entity."""
    if not uri.startswith(SCHEME) or len(uri) > LONGEST:
        return None
    try:
        parts = [unquote_to_bytes(part).decode() for part in uri.removeprefix(SCHEME).split("/")]
    except ValueError:  # no UTF-8, or half a surrogate pair
        return None
    match parts:
        case [db_name, collection_name] if db_name and collection_name:
            return Address(db_name, collection_name)
        case [db_name, collection_name, key] if db_name and collection_name:
            return Address(db_name, collection_name, key)
        case _:
            return None


def _part(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else quote(name, safe="", errors="replace")
