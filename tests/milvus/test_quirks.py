"""Each fault of pymilvus and Milvus Lite beside what we do about it.

The first half of a test shows the fault, so that it fails when pymilvus mends it: then our mend can go. The second half
fails without the mend. Faults that only a Milvus server has are in `tests/live/test_quirks_235.py`; that concurrent
writers lose nothing is shown in `test_embedded.py` and `test_engine_durability.py`.
"""

import inspect
import logging
import os
import random
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import anyio
import grpc
import pytest
from pymilvus import AsyncMilvusClient, DataType, MilvusException
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.client.connection_manager import AsyncConnectionManager
from pymilvus.client.prepare import Prepare
from pymilvus.decorators import retry_on_rpc_failure
from pymilvus.grpc_gen import milvus_pb2_grpc

from mcp_server_milvus import errors
from mcp_server_milvus.milvus import client as milvus_client
from mcp_server_milvus.milvus import data, quirks
from mcp_server_milvus.milvus.description import described_function
from mcp_server_milvus.milvus.schema import Function
from mcp_server_milvus.milvus.writing import Operation
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import FunctionType
from tests.calls import CALLS
from tests.milvus.conftest import Agent, Wire, agent, connected, failing_milvus, linux

pytestmark = pytest.mark.anyio

ENTITIES = [{"id": number, "vector": [1.0, number]} for number in range(3)]
NAMES = {
    "collection_name",
    "db_name",
    "partition_name",
    "field_name",
    "anns_field",
    "alias",
    "new_name",
    "index_name",
} | {
    "source_collection_name",
    "target_collection_name",
}
"""Arguments that are names."""

FAILURES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
NOT_NUMBERED = "0"
"""The identity of a collection whose server numbers nothing."""
INJECTION = "zz'] or id != '' or id in ['q"


@pytest.fixture
async def raw(lite_uri: str) -> AsyncGenerator[AsyncMilvusClient]:
    """pymilvus as it comes, on a connection of its own."""
    async with AsyncMilvusClient(lite_uri, dedicated=True) as client:
        yield client


async def test_an_index_is_built_without_the_error_that_pymilvus_raises_after_building_it(
    lite: Agent, raw: AsyncMilvusClient
) -> None:
    await raw.create_collection("q_index", schema=schema_of(raw))
    params = raw.prepare_index_params()
    params.add_index("vector", index_type="AUTOINDEX", metric_type="L2")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await raw.create_index("q_index", params)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED

    index = {"field_name": "vector", "metric_type": "L2", "replace": True}
    built = await lite.call("build_index", collection_name="q_index", **index)
    assert built["metric_type"] == "L2"


async def test_the_quick_form_creates_a_collection_where_pymilvus_raises(lite: Agent, raw: AsyncMilvusClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await raw.create_collection("q_quick_raw", dimension=2)

    assert (await lite.call("create_collection", collection_name="q_quick", dimension=2))["loaded"]


async def test_a_delete_that_fails_says_so_where_pymilvus_says_nothing(lite: Agent, raw: AsyncMilvusClient) -> None:
    await lite.call("create_collection", collection_name="q_delete", dimension=2)
    assert (await raw.delete("q_missing", filter="id == 1"))["delete_count"] == 0
    assert (await raw.delete("q_delete", filter="id ==== 1"))["delete_count"] == 0

    assert (await lite.refused("delete", collection_name="q_missing", filter="id == 1"))["code"] == "not_found"
    assert (await lite.refused("delete", collection_name="q_delete", filter="id ==== 1"))["code"] == "invalid_filter"


async def test_a_delete_that_fails_on_the_server_fails_in_the_client(lite: Agent) -> None:
    """Beneath the tool, whose schema look-up would have noticed before."""
    await lite.call("create_collection", collection_name="q_gone", dimension=2)
    schema = await lite.app.schemas.get("default", "q_gone")
    await lite.call("drop_collection", collection_name="q_gone")
    with pytest.raises(errors.NotFound):
        async with lite.app.clients.client("default") as client:
            await client.delete_matching("q_gone", "id == 1", schema, "")


async def test_a_key_cannot_be_a_filter(lite: Agent, raw: AsyncMilvusClient) -> None:
    await lite.call("create_collection", collection_name="q_keys", dimension=2, id_type="string")
    entities = [each | {"id": str(each["id"])} for each in ENTITIES]
    await lite.call("insert", collection_name="q_keys", data=entities)
    await raw.delete("q_keys", ids=[INJECTION])
    assert await lite.call("count", collection_name="q_keys") == {"count": 0}

    await lite.call("insert", collection_name="q_keys", data=entities)
    assert await lite.call("get", collection_name="q_keys", ids=[INJECTION]) == {
        "entities": [],
        "missing_ids": [INJECTION],
    }
    await lite.call("delete", collection_name="q_keys", ids=[INJECTION])
    assert await lite.call("count", collection_name="q_keys") == {"count": 3}


async def test_no_argument_that_is_a_name_can_be_a_path(lite: Agent, raw: AsyncMilvusClient) -> None:
    await lite.call("create_collection", collection_name="q_victim", dimension=2)
    path = "../collections/q_victim"
    assert await raw.describe_collection(path)

    for tool in (each for each in TOOLS if not each.uses_files):  # which have no folder here
        properties = tool.input_schema["properties"]
        for name in NAMES & properties.keys():
            refusal = await lite.refused(tool.name, **(CALLS[tool.name] | {name: path}))
            assert refusal["code"] == "invalid_argument"
            assert f"{name}: '{path}' is not a name" in refusal["message"]
        for name in {"partition_names"} & properties.keys():
            refusal = await lite.refused(tool.name, **(CALLS[tool.name] | {name: [path]}))
            assert f"'{path}' is not a name" in refusal["message"]
    assert await lite.call("count", collection_name="q_victim") == {"count": 0}


@pytest.mark.parametrize("field_type", ["GEOMETRY", "TIMESTAMPTZ"])
async def test_a_field_type_that_the_backend_lacks_never_leaves_this_server(
    lite: Agent, wire: Wire, field_type: str
) -> None:
    async with agent(data_dir=lite.app.settings.data_dir) as fresh:
        fields = [
            {"name": "id", "type": "INT64", "is_primary": True},
            {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
            {"name": "extra", "type": field_type},
        ]
        refusal = await fresh.refused("create_collection", collection_name="q_types", fields=fields)
        assert refusal["code"] == "not_supported"
        assert field_type in refusal["message"]
    assert wire.sent["CreateCollection"] == 0
    assert wire.sent["GetVersion"] > 0


@pytest.mark.parametrize("index_type", ["DISKANN", "SCANN", "IVF_PQ", "GPU_CAGRA", "NOPE"])
async def test_an_index_that_milvus_lite_cannot_load_is_refused(
    lite: Agent, raw: AsyncMilvusClient, index_type: str
) -> None:
    broken, kept = f"q_raw_{index_type}", f"q_{index_type}"
    await raw.create_collection(broken, schema=schema_of(raw))
    await ask_for_index(raw, broken, index_type)
    await raw.insert(broken, ENTITIES)
    await raw.flush(broken)
    await raw.release_collection(broken)
    with pytest.raises(MilvusException):
        await raw.load_collection(broken)

    await lite.call("create_collection", collection_name=kept, dimension=2)
    await lite.call("insert", collection_name=kept, data=ENTITIES)
    arguments = {"collection_name": kept, "field_name": "vector", "index_type": index_type, "replace": True}
    refusal = await lite.refused("build_index", **arguments)
    assert refusal["code"] == "not_supported"
    assert "HNSW" in refusal["message"]
    index = {"field_name": "vector", "index_type": index_type}
    arguments = {"collection_name": f"{kept}_new", "dimension": 2, "indexes": [index]}
    assert (await lite.refused("create_collection", **arguments))["code"] == "not_supported"
    names = {line["name"] for line in (await lite.call("list_collections", limit=1000))["collections"]}
    assert f"{kept}_new" not in names
    await lite.call("release_collection", collection_name=kept)
    assert len((await lite.call("search", collection_name=kept, vector=[1, 0]))["hits"]) == 3


async def test_paging_reads_every_entity_where_pymilvus_skips_most(lite: Agent, raw: AsyncMilvusClient) -> None:
    await lite.call("create_collection", collection_name="q_pages", dimension=2)
    keys = list(range(525))
    random.Random(1).shuffle(keys)  # noqa: S311  # a fixed order
    for first in range(0, len(keys), 75):
        segment = [{"id": key, "vector": [1, key]} for key in keys[first : first + 75]]
        await lite.call("insert", collection_name="q_pages", data=segment)
        await raw.flush("q_pages")
    seen: list[int] = []
    while rows := await raw.query("q_pages", filter=f"id > {max(seen, default=-1)}", output_fields=["id"], limit=50):
        seen += [row["id"] for row in rows]
    assert len(seen) < len(keys)
    assert not hasattr(raw, "query_iterator")

    paged, page = [], {"next_cursor": None}
    while "next_cursor" in page:
        page = await lite.call("query", collection_name="q_pages", limit=50, cursor=page["next_cursor"])
        paged += [entity["id"] for entity in page["entities"]]
    assert paged == sorted(keys)


async def test_aliases_are_listed_where_pymilvus_needs_a_collection(lite: Agent, raw: AsyncMilvusClient) -> None:
    await lite.call("create_collection", collection_name="q_aliased", dimension=2)
    with pytest.raises(MilvusException):
        await raw.list_aliases()

    await raw.create_alias("q_aliased", "q_alias")
    described = await lite.call("describe_collection", collection_name="q_alias")
    assert (described["collection_name"], described["aliases"]) == ("q_aliased", ["q_alias"])


async def test_a_call_names_its_database_where_pymilvus_ignores_the_name(
    lite: Agent, lite_uri: str, raw: AsyncMilvusClient
) -> None:
    await raw.create_database("q_other")
    async with AsyncMilvusClient(lite_uri, db_name="q_other") as other:
        await other.create_collection("q_in_other", schema=schema_of(other))
    assert "q_in_other" not in await raw.list_collections(db_name="q_other")

    listed = await lite.call("list_collections", db_name="q_other")
    assert [line["name"] for line in listed["collections"]] == ["q_in_other"]


async def test_each_client_has_a_channel_of_its_own_with_its_own_options(lite_uri: str) -> None:
    options = {"grpc.max_receive_message_length": 1}
    async with AsyncMilvusClient(lite_uri) as first, AsyncMilvusClient(lite_uri, grpc_options=options) as second:
        assert await first._get_connection() is await second._get_connection()

    one, two = await connected(lite_uri), await connected(lite_uri)
    handlers: list[Any] = [await AsyncMilvusClient._get_connection(client) for client in (one, two)]
    assert handlers[0]._async_channel is not handlers[1]._async_channel
    assert handlers[0]._grpc_options == milvus_client.GRPC_OPTIONS
    await one.close()
    assert await two.list_collections() is not None
    await two.close()


async def test_each_request_bears_what_pymilvus_puts_in_by_interceptors() -> None:
    async with failing_milvus() as (uri, received):
        async with AsyncMilvusClient(uri, token="root:Milvus", dedicated=True) as plain:
            await plain.list_collections()
            theirs = received.headers.pop("ShowCollections")
            assert len(await interceptors_of(plain)) == 2
        client = await connected(uri, credentials="root:Milvus")
        await client.list_collections()
        ours = received.headers["ShowCollections"]
        for name in ("authorization", "identifier"):
            assert ours[name] == theirs[name]
        assert await interceptors_of(client) == []
        await client.close()


async def interceptors_of(client: AsyncMilvusClient) -> list[Any]:
    handler: Any = await AsyncMilvusClient._get_connection(client)
    return handler._final_channel._unary_unary_interceptors


@pytest.mark.parametrize("code", FAILURES)
async def test_a_read_that_fails_is_sent_twice_where_pymilvus_goes_on_for_minutes(code: grpc.StatusCode) -> None:
    async with failing_milvus("ShowCollections", code=code) as (uri, received):
        async with AsyncMilvusClient(uri, dedicated=True) as plain:
            with anyio.move_on_after(1) as patience:
                await plain.list_collections()
        assert patience.cancelled_caught
        assert received["ShowCollections"] > 2

        received.clear()
        client = await connected(uri)
        with anyio.fail_after(10), pytest.raises((MilvusException, grpc.RpcError)):
            await client.list_collections()
        assert received["ShowCollections"] == 2
        await client.close()


@pytest.mark.parametrize("code", FAILURES)
async def test_whatever_changes_something_is_sent_once_however_it_fails(lite: Agent, code: grpc.StatusCode) -> None:
    await lite.call("create_collection", collection_name="q_once", dimension=2)
    schema = replace(await lite.app.schemas.get("default", "q_once"), identity=NOT_NUMBERED)
    entities = [{"id": 1, "vector": [1.0, 2.0]}]
    writes: dict[str, Callable[[milvus_client.Client], Awaitable[Any]]] = {
        "Insert": lambda client: client.insert_entities("q_once", entities, schema, ""),
        "Upsert": lambda client: client.upsert_entities("q_once", entities, schema, ""),
        "Delete": lambda client: client.delete_matching("q_once", "id == 1", schema, ""),
        "CreateIndex": lambda client: client.start_index("q_once", schema.indexes[0]),
        "DropIndex": lambda client: client.drop_one_index("q_once", schema.indexes[0]),
        "CreateCollection": lambda client: client.create_as(schema, num_partitions=None),
        "DropCollection": lambda client: client.drop_collection("q_once"),
        "LoadCollection": lambda client: client.start_loading("q_once"),
        "ReleaseCollection": lambda client: client.release_collection("q_once"),
    }
    async with failing_milvus(*writes, code=code) as (uri, received):
        client = await connected(uri)
        for write in writes.values():
            with anyio.fail_after(10), pytest.raises((MilvusException, grpc.RpcError)):
                await write(client)
        assert {name: received[name] for name in writes} == dict.fromkeys(writes, 1)
        await client.close()


async def test_a_failure_logs_no_traceback(
    lite: Agent, raw: AsyncMilvusClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("pymilvus")
    monkeypatch.setattr(logger, "propagate", True)
    logger.setLevel(logging.NOTSET)
    with pytest.raises(MilvusException):
        await raw.describe_collection("q_nowhere")
    assert "Traceback" in caplog.text

    caplog.clear()
    async with agent(data_dir=lite.app.settings.data_dir) as fresh:
        await fresh.refused("describe_collection", collection_name="q_nowhere")
        with pytest.raises(errors.NotFound):
            async with fresh.app.clients.client("default") as client:
                await client.describe_collection("q_nowhere")
    assert "pymilvus" not in {record.name.partition(".")[0] for record in caplog.records}


async def test_a_secret_in_a_property_is_stored_but_never_shown(lite: Agent, raw: AsyncMilvusClient) -> None:
    properties = {"embedding.api_key": "sk-hidden", "embedding.model": "minilm"}
    await lite.call("create_collection", collection_name="q_secret", dimension=2, properties=properties)
    assert (await raw.describe_collection("q_secret"))["properties"]["embedding.api_key"] == "sk-hidden"

    result = await lite.client.call_tool("describe_collection", {"collection_name": "q_secret"})
    assert result.structured_content is not None
    assert result.structured_content["properties"] == {"embedding.api_key": "***", "embedding.model": "minilm"}
    assert "sk-hidden" not in result.model_dump_json()


def test_a_secret_in_the_parameters_of_a_function_is_never_shown() -> None:
    params = {"provider": "openai", "api_key": "sk-hidden", "nested": {"credential": "sk-hidden"}}
    function = Function("embed", FunctionType.TEXTEMBEDDING, ("body",), ("vector",), params)
    assert described_function(function)["params"] == {
        "provider": "openai",
        "api_key": "***",
        "nested": {"credential": "***"},
    }


@pytest.mark.parametrize("setting", ["data_dir", "uri"])
async def test_milvus_lite_never_runs_in_this_process(tmp_path: Path, setting: str) -> None:
    """In it, its start and every p99 would block the loop, and a second process could not open the file."""
    script = f"""
import sys
import anyio
from tests.milvus.conftest import agent

async def use() -> None:
    before = set(sys.modules)
    async with agent({setting}={str(tmp_path / "own.db")!r}) as each:
        await each.call("create_collection", collection_name="c", dimension=2)
    print([name for name in set(sys.modules) - before if name.startswith("milvus_lite")])

anyio.run(use)
"""
    async with agent(**{setting: str(tmp_path / "own.db")}) as beside:
        await beside.call("list_collections")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ran = await anyio.run_process([sys.executable, "-c", script], env=environment, stderr=None)
        assert ran.stdout.decode().strip() == "[]"
        listed = await beside.call("list_collections")
        assert [line["name"] for line in listed["collections"]] == ["c"]


@linux
def test_milvus_lite_listens_on_no_port(lite_dir: Path, lite_uri: str) -> None:
    pid = int((lite_dir / ".engine" / "address").read_text().splitlines()[1])
    assert lite_uri.startswith("unix:")
    assert listening_ports(pid) == []
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as control:
        assert control.stdout
        control.stdout.readline()
        assert len(listening_ports(control.pid)) == 1
        control.communicate()


LISTENER = "import socket, sys; door = socket.create_server(('127.0.0.1', 0)); print(flush=True); sys.stdin.read()"


async def test_the_private_names_of_pymilvus_are_where_quirks_expects_them() -> None:
    assert inspect.iscoroutinefunction(AsyncMilvusClient._get_connection)
    client = AsyncMilvusClient("http://127.0.0.1:1", db_name="one", dedicated=True, grpc_options={})
    assert ("dbname", "one") in client._generate_call_context().to_grpc_metadata()
    assert {"_handler", "_manager", "_closed"} <= vars(client).keys()
    assert "_dedicated" in vars(AsyncConnectionManager.get_instance())
    assert inspect.iscoroutinefunction(AsyncGrpcHandler.close)
    handler = AsyncGrpcHandler(uri="http://127.0.0.1:1")
    assert hasattr(handler, "_async_stub")
    assert isinstance(vars(handler._final_channel)["_unary_unary_interceptors"], list)
    await handler.close()
    assert "_fn" in vars(quirks._GenericAsyncClientInterceptor(lambda *_: None))
    assert "await args[0]._on_rpc_error(e)" in inspect.getsource(retry_on_rpc_failure)

    for name in (*quirks.REPEATED, "create_collection", "drop_collection", "drop_index", "release_collection"):
        assert inspect.iscoroutinefunction(getattr(AsyncGrpcHandler, name)), name
    for name in ("describe_collection", "list_indexes", "create_collection", "alloc_timestamp", "query", "drop_index"):
        assert "context" in inspect.signature(getattr(AsyncGrpcHandler, name)).parameters, name

    takes(Prepare.row_insert_param, "collection_name", "entities", "partition_name", "fields_info")
    takes(Prepare.row_upsert_param, "collection_name", "entities", "partition_name", "fields_info")
    for prepare in (Prepare.row_insert_param, Prepare.row_upsert_param):
        assert {"enable_dynamic", "schema_timestamp"} <= inspect.signature(prepare).parameters.keys()
    takes(Prepare.show_partitions_request, "collection_name")
    takes(Prepare.delete_request, "collection_name", "filter", "partition_name", "consistency_level")
    takes(Prepare.create_index_request, "collection_name", "field_name", "params")
    takes(Prepare.load_collection, "collection_name")


def test_the_rpcs_that_quirks_sends_itself_are_on_the_stub() -> None:
    source = "".join(map(inspect.getsource, (quirks, data, milvus_client)))
    sent = set(re.findall(r"stub\.([A-Z]\w+)\(", source)) | {each.capitalize() for each in get_args(Operation)}
    assert sent >= {"ShowPartitions", "Delete", "CreateIndex", "LoadCollection", "Query", "Insert", "Upsert"}
    stub: Any = milvus_pb2_grpc.MilvusServiceStub(grpc.insecure_channel("127.0.0.1:1"))  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
    assert [name for name in sent if not hasattr(stub, name)] == []


def takes(prepare: Any, *names: str) -> None:
    """The function has these parameters first, in this order."""
    assert tuple(inspect.signature(prepare).parameters)[: len(names)] == names


def schema_of(client: AsyncMilvusClient) -> Any:
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    return schema


async def ask_for_index(client: AsyncMilvusClient, collection_name: str, index_type: str) -> None:
    """The index is made: pymilvus's error comes after that."""
    params = client.prepare_index_params()
    params.add_index("vector", index_type=index_type, metric_type="L2")
    with pytest.raises(grpc.aio.AioRpcError):
        await client.create_index(collection_name, params)


def listening_ports(pid: int) -> list[str]:
    """The TCP ports on which a process listens, in the kernel's notation."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and row[9] in sockets]
