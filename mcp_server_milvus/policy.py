"""What the operator's settings make of the tools: decided from a tool's name and toolset, never in a handler."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from mcp_server_milvus.settings import SettingsError, nearest
from mcp_server_milvus.vocabulary import Toolset

DEFAULT_TOOLSETS = (Toolset.SEARCH, Toolset.DATA, Toolset.SCHEMA)
ALL = "all"


class Offerable(Protocol):
    """What the policy knows of a tool."""

    @property
    def name(self) -> str: ...

    @property
    def toolset(self) -> Toolset: ...


AnyTool = TypeVar("AnyTool", bound=Offerable)


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


def _known(name: str, tools: Sequence[Offerable]) -> str:
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
