"""The tokens file: whose token is which, and how far each bearer reaches. It is read again when it changes.

    [tokens.reporting]
    sha256 = "…"                     # of a token made by `mcp-server-milvus token`; a list while tokens are exchanged
    scopes = ["read"]
    databases = ["prod"]             # patterns; all, where it is left out
    collections = ["docs_*"]
    filter = 'tenant == "acme"'      # AND-ed into every read, delete and update
    key_prefix = "acme-"             # of the keys that it may insert
    expires = 2027-01-31             # the first day, in UTC, on which it is not taken any more

    [subjects."auth0|42"]            # the same limits for the JWTs of a subject; "*" is for all that are not named
    collections = ["notes_*"]

Only digests are kept. A token is 256 random bits, of which nobody can try enough for a slow hash to make a difference.
"""

import hashlib
import hmac
import logging
import os
import secrets
import stat
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import anyio
import anyio.to_thread
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.filters import rendered, understood
from mcp_server_milvus.policy import LOCAL, NOBODY, Caller
from mcp_server_milvus.settings import SettingsError
from mcp_server_milvus.vocabulary import Scope

LOGGER = logging.getLogger(__name__)

MARK = "mmcp_"
"""Begins every token of ours, so that whoever finds one in a public place knows what it is."""

EVERYBODY_ELSE = "*"

LOOK_SECONDS = 1.0
"""Between two looks at the file, and how old a change must be: an editor may be in the middle of writing it."""

LARGEST = 2**22
"""Bytes of the file."""


def _expiry(value: object) -> object:
    match value:
        case datetime() if value.tzinfo:
            return value.timestamp()
        case date() if not isinstance(value, datetime):
            return datetime.combine(value, time_of_day(), UTC).timestamp()
        case _:
            raise ValueError("must be a date like 2027-01-31, or a time with its offset from UTC")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _closed_filter(text: str) -> str:
    """The filter. What could not be judged would be refused at each call."""
    try:
        understood(text)
        return rendered(text, None)
    except InvalidArgument as error:
        raise ValueError(error.message.partition("\n")[0]) from None


NameOfToken = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Patterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
"""Never empty: that would be taken for all, or for none, depending on who reads it."""

Scopes = Annotated[frozenset[Scope], Field(min_length=1)]


class _Limits(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    databases: Patterns = ()
    collections: Patterns = ()
    filter: Annotated[str, Field(pattern=r"\S"), AfterValidator(_closed_filter)] = ""
    key_prefix: Annotated[str, Field(min_length=1)] = ""

    @model_validator(mode="after")
    def _has_a_filter_for_its_prefix(self) -> Self:
        if self.key_prefix and not self.filter:
            raise ValueError("key_prefix is of no use without filter")
        return self

    def caller(self, name: str, scopes: frozenset[Scope]) -> Caller:
        return Caller(
            name,
            scopes=scopes,
            databases=self.databases,
            collections=self.collections,
            mandatory_filter=self.filter,
            key_prefix=self.key_prefix,
        )


class _Token(_Limits):
    sha256: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], BeforeValidator(_listed), Field(min_length=1)
    ]
    scopes: Scopes
    expires: Annotated[float | None, BeforeValidator(_expiry)] = None


class _Subject(_Limits):
    scopes: Scopes = frozenset(Scope)
    """More than these its JWTs do not give."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    tokens: dict[NameOfToken, _Token] = Field(default_factory=dict[str, _Token])
    subjects: dict[str, _Subject] = Field(default_factory=dict[str, _Subject])

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        _require_apart([*self.tokens.values(), *self.subjects.values()])
        hashes = [each for token in self.tokens.values() for each in token.sha256]
        if len(set(hashes)) < len(hashes):
            raise ValueError("a token is listed twice")
        if taken := self.tokens.keys() & {LOCAL.name, NOBODY.name}:
            raise ValueError(f"no token can be named {min(taken)}")
        return self


def _require_apart(limits: Sequence[_Limits]) -> None:
    for one, other in combinations([each for each in limits if each.key_prefix], 2):
        begins = one.key_prefix.startswith(other.key_prefix) or other.key_prefix.startswith(one.key_prefix)
        if one.filter != other.filter and begins:
            raise ValueError(
                f"key_prefix {one.key_prefix!r} and {other.key_prefix!r} belong to different filters, so neither may"
                " begin with the other"
            )


@dataclass(frozen=True)
class Entry:
    """One token: its SHA-256, whose it is, and the Unix time at which it ends."""

    digest: bytes = field(repr=False)
    caller: Caller
    expires: float | None = None


@dataclass(frozen=True)
class Tokens:
    """What a tokens file says."""

    entries: tuple[Entry, ...] = ()
    subjects: Mapping[str, _Subject] = field(default_factory=dict[str, _Subject])

    def entry_of(self, token: str) -> Entry | None:
        """Whose token it is, unless it is nobody's or has expired. How long that takes tells nothing."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for entry in self.entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found if found and (found.expires is None or time.time() < found.expires) else None

    def subject(self, name: str, subject: str, scopes: frozenset[Scope]) -> Caller | None:
        """Who the subject of a JWT is, with what the file leaves it; where it lists others only, nobody."""
        if not self.subjects:
            return Caller(name, scopes=scopes)
        limits = self.subjects.get(subject) or self.subjects.get(EVERYBODY_ELSE)
        return limits.caller(name, scopes & limits.scopes) if limits else None


class _Stamp(NamedTuple):
    """By which a change is seen."""

    changed: int
    size: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "_Stamp":
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)

    @property
    def is_settled(self) -> bool:
        return time.time() - self.changed / 1e9 >= LOOK_SECONDS


class TokensFile:
    """The tokens file as it is now, or as it was when it last made sense."""

    def __init__(self, path: Path, tokens: Tokens, stamp: _Stamp) -> None:
        self._path = path
        self._tokens = tokens
        self._stamp: _Stamp | None = stamp
        self._unsettled: _Stamp | None = None
        self._next_look = 0.0
        self._looking = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)  # what fills the others must not keep anybody out

    @classmethod
    async def opened(cls, path: Path) -> "TokensFile":
        """The file.

        Raises:
            SettingsError: it cannot be read, others may write it, or it makes no sense.
        """
        return cls(path, *await anyio.to_thread.run_sync(_read, path))

    async def current(self) -> Tokens:
        """What it says. A change is seen within two seconds; one that makes no sense is logged and not followed."""
        async with self._looking:
            if time.monotonic() >= self._next_look:
                await anyio.to_thread.run_sync(self._look, limiter=self._thread)
                self._next_look = time.monotonic() + LOOK_SECONDS
        return self._tokens

    def _look(self) -> None:
        try:
            stamp = _Stamp.of(self._path.stat())
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        if stamp and not stamp.is_settled and stamp != self._unsettled:
            self._unsettled = stamp
            return
        self._stamp = stamp
        try:
            self._tokens, self._stamp = _read(self._path)
            LOGGER.info("the tokens file was read again")
        except SettingsError as error:
            LOGGER.error("%s; the tokens stay as they were", error)  # noqa: TRY400  # its words are all there is


def _read(path: Path) -> tuple[Tokens, _Stamp]:
    try:
        with path.expanduser().open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise SettingsError(f"auth_tokens: {path} cannot be read: {error.strerror}") from None
    _require_private(path, status)
    if len(content) > LARGEST:
        raise SettingsError(f"auth_tokens: {path} has more than {LARGEST} bytes")
    return _parsed(path, content), _Stamp.of(status)


def _require_private(path: Path, status: os.stat_result) -> None:
    if sys.platform == "win32":
        return
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"auth_tokens: others than its owner may write {path}: chmod 600 it")
    if status.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        LOGGER.warning("auth_tokens: others than its owner may read %s", path)


def _parsed(path: Path, content: bytes) -> Tokens:
    try:
        file = _File.model_validate(tomllib.loads(content.decode()))
    except ValidationError as error:
        raise SettingsError(f"auth_tokens: {path}: {'; '.join(map(_told, error.errors()))}") from None
    except ValueError as error:
        raise SettingsError(f"auth_tokens: {path} cannot be read as TOML: {error}") from None
    entries = tuple(
        Entry(bytes.fromhex(digest), token.caller(name, token.scopes), token.expires)
        for name, token in file.tokens.items()
        for digest in token.sha256
    )
    return Tokens(entries, file.subjects)


def _told(problem: Any) -> str:
    """Where and what, never the value: somebody may have written the token itself."""
    said = problem["msg"].removeprefix("Value error, ")
    if problem["loc"][2:3] == ("sha256",):
        said = "must be the SHA-256 of a token, 64 hexadecimal digits in small letters: mcp-server-milvus token"
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), said)))


def new_token() -> str:
    """A token that nobody can guess."""
    return MARK + secrets.token_urlsafe(32)


def entry_for(name: str, token: str) -> str:
    """What the tokens file needs for it.

    Raises:
        SettingsError: no token can have this name.
    """
    try:
        TypeAdapter(NameOfToken).validate_python(name)
    except ValidationError:
        raise SettingsError("the name of a token has letters, digits, - and _") from None
    return f'[tokens.{name}]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nscopes = ["read"]'
