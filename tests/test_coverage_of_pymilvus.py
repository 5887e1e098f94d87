"""What pymilvus's client can do is done by a tool, or is not for a reason that `tools/pymilvus.md` gives."""

import inspect
import re
from pathlib import Path

from pymilvus import AsyncMilvusClient

from mcp_server_milvus.tools import TOOLS

TABLES = (Path(__file__).parents[1] / "tools" / "pymilvus.md").read_text("utf-8")
DONE, NOT_OFFERED = TABLES.split("## Not offered")


def rows(table: str) -> list[tuple[str, str]]:
    """Each method, and what stands beside it."""
    return re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)


def unexplained(client: type[AsyncMilvusClient]) -> set[str]:
    """The public methods that are in neither table."""
    methods = {name for name, _ in inspect.getmembers(client, callable) if not name.startswith("_")}
    return methods - {name for name, _ in rows(TABLES)}


def test_every_method_is_in_one_of_the_tables() -> None:
    assert unexplained(AsyncMilvusClient) == set()


def test_a_method_that_pymilvus_grows_is_noticed() -> None:
    class Grown(AsyncMilvusClient):
        async def do_something_new(self) -> None: ...

    assert unexplained(Grown) == {"do_something_new"}


def test_the_tables_name_each_method_once_in_order_and_no_other() -> None:
    for table in (DONE, NOT_OFFERED):
        names = [name for name, _ in rows(table)]
        assert names == sorted(set(names))
        assert len(names) == len(re.findall(r"^\| `", table, re.MULTILINE))
        assert [name for name in names if not hasattr(AsyncMilvusClient, name)] == []
    assert {name for name, _ in rows(DONE)}.isdisjoint(name for name, _ in rows(NOT_OFFERED))


def test_a_method_is_done_by_tools_that_there_are() -> None:
    there = {f"`{tool.name}`" for tool in TOOLS}
    assert {method: tools for method, tools in rows(DONE) if not there.issuperset(tools.split(", "))} == {}


def test_a_reason_says_why_or_refers_to_one_that_does() -> None:
    reasons = dict(rows(NOT_OFFERED))
    for method, reason in reasons.items():
        referred = re.fullmatch(r"as `(\w+)`", reason)
        assert len(reasons[referred[1] if referred else method].split()) > 5, method
