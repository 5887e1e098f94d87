"""What a caller may do: decided from a tool's toolset and effect, the settings and the caller, never in a handler."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

from pydantic import SecretStr

from mcp_server_milvus.reach import Globs, Reach, globs
from mcp_server_milvus.redaction import Secrets
from mcp_server_milvus.settings import Settings, SettingsError, nearest
from mcp_server_milvus.vocabulary import Effect, Scope, Toolset

DEFAULT_TOOLSETS = (Toolset.SEARCH, Toolset.DATA, Toolset.SCHEMA)
ALL = "all"

OF_WRITERS = frozenset({Effect.CREATE, Effect.MODIFY})
"""What the scope `write` may do to collections; to entities it may do everything."""


class Judged(Protocol):
    """What the policy knows of a tool."""

    @property
    def name(self) -> str: ...

    @property
    def toolset(self) -> Toolset: ...

    @property
    def effect(self) -> Effect: ...

    @property
    def uses_files(self) -> bool: ...


AnyTool = TypeVar("AnyTool", bound=Judged)


@dataclass(frozen=True)
class Caller:
    """Who calls, and what it was given. `credentials` are its own Milvus account's, where the settings want those."""

    name: str = "local"
    scopes: frozenset[Scope] = frozenset({Scope.ADMIN})
    databases: Globs = ()
    collections: Globs = ()
    mandatory_filter: str = ""
    key_prefix: str = ""
    credentials: SecretStr | None = None


LOCAL = Caller()
"""The one client of a server over stdio, and every client of one on loopback without authentication."""

NOBODY = Caller("nobody", scopes=frozenset())
"""Whoever reaches a server that asks for tokens without having shown one. It may do nothing."""


@dataclass(frozen=True)
class Policy:
    """What one caller of one server may do."""

    settings: Settings
    caller: Caller = field(default=LOCAL)

    @cached_property
    def reach(self) -> Reach:
        """The part of the database that there is for the caller."""
        return Reach(
            databases=(globs(self.settings.databases), self.caller.databases),
            collections=(globs(self.settings.collections), self.caller.collections),
            mandatory_filter=self.caller.mandatory_filter,
            key_prefix=self.caller.key_prefix,
            masked_fields=globs(self.settings.mask_fields),
        )

    @cached_property
    def secrets(self) -> Secrets:
        """What the caller is never shown."""
        return Secrets.of(self.settings, self.caller.credentials)

    @property
    def keeps_house(self) -> bool:
        """Whether a call of the caller may remove what is too old: where it may change nothing, nothing is."""
        may_write = bool(self.caller.scopes & {Scope.WRITE, Scope.ADMIN})
        return may_write and not (self.settings.read_only or self.settings.no_drop or self.caller.mandatory_filter)

    def offered(self, tools: Sequence[AnyTool]) -> tuple[AnyTool, ...]:
        """The tools that there are for the caller, in the order of `tools`.

        Raises:
            SettingsError: the setting `toolsets` names no toolset or no tool.
        """
        return tuple(tool for tool in offered(tools, self.settings.toolsets) if self.permits(tool))

    def permits(self, tool: Judged) -> bool:
        """Whether the caller may call this tool at all."""
        return not self.lacking(tool) and self.would_permit(tool)

    def would_permit(self, tool: Judged) -> bool:
        """Whether the caller may call it on a server that has what the tool needs."""
        return self._allows(tool) and self._in_scope(tool) and self._within_reach(tool)

    @property
    def may_read(self) -> bool:
        """Whether the caller may learn what entities there are."""
        return not self.caller.scopes.isdisjoint({Scope.READ, Scope.ADMIN})

    def lacking(self, tool: Judged) -> str:
        """The setting without which the tool can do nothing for anybody; empty if it has what it needs."""
        return "files_dir" if tool.uses_files and not self.settings.files_dir else ""

    def _allows(self, tool: Judged) -> bool:
        if self.settings.read_only and tool.effect is not Effect.READ:
            return False
        return not (self.settings.no_drop and tool.effect is Effect.DELETE)

    def _in_scope(self, tool: Judged) -> bool:
        """`read` reads, `write` writes entities and creates or changes collections, `admin` does everything."""
        scopes = self.caller.scopes
        if Scope.ADMIN in scopes:
            return True
        if tool.toolset is Toolset.ACCESS:
            return False
        if tool.effect is Effect.READ:
            return Scope.READ in scopes
        if Scope.WRITE not in scopes:
            return False
        return tool.toolset is Toolset.DATA or (tool.toolset is Toolset.SCHEMA and tool.effect in OF_WRITERS)

    def _within_reach(self, tool: Judged) -> bool:
        """Whether it does nothing to, and tells nothing of, what the caller does not reach."""
        if self.reach.mandatory_filter:
            shared = tool.uses_files or tool.toolset in {Toolset.OPERATIONS, Toolset.ACCESS}
            return not shared and (tool.toolset is not Toolset.SCHEMA or tool.effect is Effect.READ)
        return tool.toolset is not Toolset.ACCESS or not self.reach.is_restricted


def offered(tools: Sequence[AnyTool], toolsets: str) -> tuple[AnyTool, ...]:
    """The tools that a choice like `search,data,+flush,-delete` makes visible and callable, in the order of `tools`.

    A choice of only `+TOOL` and `-TOOL` changes the default toolsets.

    Raises:
        SettingsError: a name in it is no toolset or no tool.
    """
    words = [word.strip() for word in toolsets.split(",") if word.strip()]
    added = {_known(word[1:], tools) for word in words if word.startswith("+")}
    removed = {_known(word[1:], tools) for word in words if word.startswith("-")}
    sets = {chosen for word in words if word[0] not in "+-" for chosen in _toolsets(word)} or set(DEFAULT_TOOLSETS)
    return tuple(tool for tool in tools if (tool.toolset in sets or tool.name in added) and tool.name not in removed)


def _known(name: str, tools: Sequence[Judged]) -> str:
    names = [tool.name for tool in tools]
    if name not in names:
        raise SettingsError(f"toolsets: there is no tool {name!r}{nearest(name, names)}")
    return name


def _toolsets(word: str) -> tuple[Toolset, ...]:
    if word == ALL:
        return tuple(Toolset)
    if word not in set(Toolset):
        raise SettingsError(
            f"toolsets: {word!r} is no toolset{nearest(word, Toolset)}; toolsets: {', '.join(Toolset)}, {ALL};"
            " single tools are written +TOOL and -TOOL"
        )
    return (Toolset(word),)
