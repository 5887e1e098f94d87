"""A Milvus that lies: whatever it answers, a call ends soon, in words, in little memory, and is no fault of ours."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from pymilvus import CollectionSchema, DataType, FieldSchema
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from tests.agent import agent_on
from tests.fake_milvus import FakeMilvus, fake_milvus, small_schema
from tests.hostile.precious import Attacks, P

pytestmark = pytest.mark.anyio

VERSION = "2.6.4"
Answer = Callable[[FakeMilvus], None]
Calls = list[tuple[str, dict[str, Any]]]
Lies = Callable[[], Iterator[tuple[str, Answer]]]

OF_ENTITIES: Calls = [
    ("query", P | {"limit": 5}),
    ("get", P | {"ids": [1]}),
    ("count", P),
    ("aggregate", P | {"aggregates": ["sum(id)"]}),
    ("search", P | {"vector": [1, 1], "limit": 5, "exact": True}),
    ("search", P | {"id": 1}),
    ("describe_collection", P),
    ("delete", P | {"ids": [1]}),
]
OF_HITS: Calls = [
    ("search", P | {"vector": [1, 1], "limit": 5}),
    ("search", P | {"vector": [1, 1], "group_by_field": "title"}),
    ("hybrid_search", P | {"legs": [{"vector": [1, 1]}, {"vector": [2, 1]}], "limit": 5}),
]
OF_THE_SCHEMA: Calls = [
    ("describe_collection", P),
    ("list_collections", {}),
    ("query", P | {"limit": 5}),
    ("count", P),
    ("upsert", P | {"data": [{"id": 1, "title": "t", "vector": [1, 1]}]}),
    ("delete", P | {"ids": [1]}),
    ("collection_stats", P),
]

HONEST = (
    *("not_found", "milvus_error", "invalid_argument", "invalid_filter", "conflict", "not_loaded", "limit_exceeded"),
    *("not_supported", "deadline_exceeded", "milvus_unavailable", "denied", "already_exists", "partial_write"),
)
"""Every code but `internal`, which means a fault of this server."""

LONG = "x" * 300_000
SECRET = "tok3n-of-the-operator"
NASTY = "\x1b[31mERROR\x1b[0m\r\nforged line\u202e\U000e0041 "
TALKATIVE = f"{NASTY}http://root:{SECRET}@10.1.2.3:19530/ {SECRET} "


def numbers(name: str, values: list[int], *, number: int = 100) -> Any:
    data = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=values))
    return schema_pb2.FieldData(type=schema_pb2.DataType.Int64, field_name=name, field_id=number, scalars=data)


def texts(name: str, values: list[str], *, number: int = 101) -> Any:
    data = schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=values))
    return schema_pb2.FieldData(type=schema_pb2.DataType.VarChar, field_name=name, field_id=number, scalars=data)


def jsons(name: str, values: list[bytes], *, dynamic: bool = True) -> Any:
    data = schema_pb2.ScalarField(json_data=schema_pb2.JSONArray(data=values))
    return schema_pb2.FieldData(type=schema_pb2.DataType.JSON, field_name=name, scalars=data, is_dynamic=dynamic)


def vectors(name: str, dim: int, values: list[float]) -> Any:
    data = schema_pb2.VectorField(dim=dim, float_vector=schema_pb2.FloatArray(data=values))
    return schema_pb2.FieldData(type=schema_pb2.DataType.FloatVector, field_name=name, vectors=data)


def rows_of(*fields: Any) -> Answer:
    def answer(fake: FakeMilvus) -> None:
        names = [each.field_name for each in fields]
        fake.answers["Query"] = milvus_pb2.QueryResults(fields_data=fields, output_fields=names)

    return answer


def hits_of(**given: Any) -> Answer:
    def answer(fake: FakeMilvus) -> None:
        found = milvus_pb2.SearchResults(results=schema_pb2.SearchResultData(**given))
        fake.answers |= {"Search": found, "HybridSearch": found}

    return answer


def ids(*values: int) -> Any:
    return schema_pb2.IDs(int_id=schema_pb2.LongArray(data=values))


def schema_of(*fields: FieldSchema, **options: Any) -> Answer:
    def answer(fake: FakeMilvus) -> None:
        fake.schema = CollectionSchema(list(fields), check_fields=False, **options)

    return answer


def described(change: Callable[[Any], None]) -> Answer:
    """The description of the collection, changed."""

    def answer(fake: FakeMilvus) -> None:
        def describe(request: Any) -> Any:
            response = fake._DescribeCollection(request)
            change(response)
            return response

        fake.answers["DescribeCollection"] = describe

    return answer


def failing(name: str, message: str, code: int = 65535) -> Answer:
    def answer(fake: FakeMilvus) -> None:
        status = common_pb2.Status(
            code=code, error_code=common_pb2.ErrorCode.UnexpectedError, reason=message, detail=message
        )
        for each in (name,) if name else ("Query", "Search", "HybridSearch", "Insert", "Upsert", "Delete"):
            fake.answers[each] = _with_status(each, status)

    return answer


def _with_status(name: str, status: Any) -> Any:
    kinds: dict[str, Any] = {
        "Query": milvus_pb2.QueryResults,
        "Search": milvus_pb2.SearchResults,
        "HybridSearch": milvus_pb2.SearchResults,
        "DescribeCollection": milvus_pb2.DescribeCollectionResponse,
        "ShowPartitions": milvus_pb2.ShowPartitionsResponse,
        "DescribeIndex": milvus_pb2.DescribeIndexResponse,
    }
    return kinds.get(name, milvus_pb2.MutationResult)(status=status)


def _a_field(kind: int, name: str = "odd") -> Callable[[Any], None]:
    def change(response: Any) -> None:
        response.schema.fields.add(name=name, data_type=kind, fieldID=199)

    return change


def _a_param(key: str, value: str) -> Callable[[Any], None]:
    def change(response: Any) -> None:
        for field in response.schema.fields:
            field.type_params.add(key=key, value=value)

    return change


def _no_key(response: Any) -> None:
    for field in response.schema.fields:
        field.is_primary_key = False


def _a_function(kind: int) -> Callable[[Any], None]:
    def change(response: Any) -> None:
        response.schema.functions.add(name="f", type=kind, input_field_names=["nowhere"], output_field_names=["vector"])

    return change


def _a_property(key: str, value: str) -> Callable[[Any], None]:
    def change(response: Any) -> None:
        response.properties.add(key=key, value=value)

    return change


def _named(name: str) -> Callable[[Any], None]:
    def change(response: Any) -> None:
        response.collection_name = name
        response.schema.name = name
        response.schema.description = name * 3

    return change


def index_of(**params: str) -> Answer:
    def answer(fake: FakeMilvus) -> None:
        pairs = [common_pb2.KeyValuePair(key=key, value=value) for key, value in params.items()]
        index: Any = milvus_pb2.IndexDescription(index_name="vector", field_name="vector", params=pairs)
        index.state = 99
        fake.answers["DescribeIndex"] = milvus_pb2.DescribeIndexResponse(index_descriptions=[index])

    return answer


KEY = FieldSchema("id", DataType.INT64, is_primary=True)
VECTOR = FieldSchema("vector", DataType.FLOAT_VECTOR, dim=2)


def lies_about_entities() -> Iterator[tuple[str, Answer]]:
    yield "no fields", rows_of()
    yield "only other fields", rows_of(numbers("other", [1, 2]))
    yield "no key", rows_of(texts("title", ["a", "b"]))
    yield "columns of different lengths", rows_of(numbers("id", [1, 2, 3]), texts("title", ["a"]))
    yield "texts as keys", rows_of(texts("id", ["a", "b"]), texts("title", ["a", "b"]))
    yield "numbers as texts", rows_of(numbers("id", [1]), numbers("title", [1]))
    yield "the same key twice", rows_of(numbers("id", [1, 1, 1]), texts("title", ["a", "b", "c"]))
    yield "keys in no order", rows_of(numbers("id", [5, -1, 3]), texts("title", ["a", "b", "c"]))
    yield "keys without end", rows_of(numbers("id", [1] * 10), texts("title", ["a"] * 10))
    yield "too many entities", rows_of(numbers("id", [*range(20_000)]), texts("title", ["x" * 50] * 20_000))
    yield "a long text", rows_of(numbers("id", [1]), texts("title", [LONG]))
    yield "a negative count", rows_of(numbers("count(*)", [-5]))
    yield "a count in text", rows_of(texts("count(*)", ["many"]))
    yield "no count", rows_of(numbers("count(*)", []))
    yield "a vector of another dimension", rows_of(numbers("id", [1]), vectors("vector", 3, [1, 2, 3]))
    yield "half a vector", rows_of(numbers("id", [1]), vectors("vector", 2, [1]))
    yield "broken JSON", rows_of(numbers("id", [1]), jsons("$meta", [b"{"]))
    yield "JSON that is no object", rows_of(numbers("id", [1]), jsons("$meta", [b"[1]"]))
    yield "deep JSON", rows_of(numbers("id", [1]), jsons("$meta", [b'{"a":' * 5_000 + b"1" + b"}" * 5_000]))
    for depth in (300, 600):  # more than a result can hold, and more than Python's recursion could on 3.11
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        yield f"{depth} levels of JSON", rows_of(numbers("id", [1]), jsons("$meta", [deep]))
    yield (
        "JSON with strange keys",
        rows_of(numbers("id", [1]), jsons("$meta", [b'{"\\u202e": 1, "id": "x", "__class__": 2}'])),
    )
    yield (
        "JSON with a huge number",
        rows_of(numbers("id", [1]), jsons("$meta", [b'{"a": 1e999, "b": ' + b"9" * 4_000 + b"}"])),
    )
    yield "half a surrogate", rows_of(numbers("id", [1]), jsons("$meta", [b'{"a": "\\ud800"}']))


def lies_about_hits() -> Iterator[tuple[str, Answer]]:
    yield "no hits", hits_of(num_queries=1, top_k=5)
    yield "scores without keys", hits_of(num_queries=1, top_k=2, topks=[2], scores=[1.0, 0.5])
    yield "keys without scores", hits_of(num_queries=1, top_k=2, topks=[2], ids=ids(1, 2))
    yield "fewer than said", hits_of(num_queries=1, top_k=50, topks=[50], ids=ids(1), scores=[1.0])
    yield "no queries", hits_of(num_queries=0, top_k=5, topks=[], ids=ids(1), scores=[1.0])
    yield (
        "scores that are no numbers",
        hits_of(num_queries=1, top_k=2, topks=[2], ids=ids(1, 2), scores=[float("nan"), float("inf")]),
    )
    many = 20_000
    yield "too many hits", hits_of(num_queries=1, top_k=many, topks=[many], ids=ids(*range(many)), scores=[0.5] * many)
    text_ids = schema_pb2.IDs(str_id=schema_pb2.StringArray(data=["a", "b"]))
    yield "hits of text keys", hits_of(num_queries=1, top_k=2, topks=[2], ids=text_ids, scores=[1.0, 0.5])


def lies_about_the_schema() -> Iterator[tuple[str, Answer]]:
    yield "no primary key", described(_no_key)
    yield "no fields at all", described(lambda response: response.schema.ClearField("fields"))
    yield "an unknown type", described(_a_field(999))
    yield "a type of zero", described(_a_field(0))
    yield "a field without a name", described(_a_field(5, ""))
    yield "a field of a strange name", described(_a_field(5, "../x\x1b[31m\n\u202e"))
    yield "a dimension that is none", described(_a_param("dim", "many"))
    yield "a length that is none", described(_a_param("max_length", "1e9"))
    yield "an enormous dimension", described(_a_param("dim", "9" * 30))
    yield "an unknown function", described(_a_function(99))
    yield "a function of nothing", described(_a_function(1))
    yield "a binding that is none", described(_a_property("mcp_embedding", "{"))
    yield "deep properties", described(_a_property("mcp_embedding", "[" * 10_000))
    yield "another collection's name", described(_named("other"))
    yield "a collection's name that is none", described(_named(NASTY))
    yield "5,000 fields", schema_of(KEY, VECTOR, *(FieldSchema(f"f{n}", DataType.INT64) for n in range(5_000)))
    yield "only a vector", schema_of(VECTOR)
    yield "an index with broken parameters", index_of(params="{", index_type="HNSW", metric_type="L2")
    yield "an index with parameters that are a list", index_of(params="[1]", index_type="HNSW", metric_type="L2")
    yield "an index of an unknown metric", index_of(index_type="../x", metric_type="NASTY\n")
    yield "an index of nothing", index_of()
    yield "deep index parameters", index_of(params="[" * 100_000, metric_type="L2")
    for name in ("", "DescribeCollection", "ShowPartitions", "DescribeIndex"):
        yield f"an error of {name or 'everything'} with much in it", failing(name, TALKATIVE + LONG)
        yield f"an error of {name or 'everything'} with an unknown code", failing(name, "", -7)


@pytest.mark.parametrize(
    ("lies", "calls", "codes"),
    [
        pytest.param(lies_about_entities, OF_ENTITIES, HONEST, id="entities"),
        pytest.param(lies_about_hits, OF_HITS, HONEST, id="hits"),
        pytest.param(lies_about_the_schema, OF_THE_SCHEMA, HONEST, id="schema"),
    ],
)
async def test_whatever_a_server_answers_a_call_ends_soon_and_tells_no_secret(
    lies: Lies, calls: Calls, codes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    wrong: list[str] = []
    async with fake_milvus(VERSION) as fake, agent_on(fake.uri, token=SECRET, timeout=5) as agent:
        for number, (about, lie) in enumerate(lies()):
            fake.answers, fake.schema = {}, small_schema()
            lie(fake)
            attacks = Attacks(agent)
            for tool, arguments in calls:
                new = {"collection_name": f"of_lie_{number}"} if arguments else {}  # of which nothing is known yet
                with anyio.move_on_after(10) as scope:
                    answers = await attacks.end(tool, [arguments | new], *codes)
                    wrong += [f"{about}: {tool}: {problem}" for each in answers if (problem := told_too_much(each))]
                if scope.cancelled_caught:
                    wrong.append(f"{about}: {tool} {arguments}: takes longer than 10 s")
            wrong += [f"{about}: {each}" for each in attacks.wrong]
    assert not wrong, "\n".join([f"{len(wrong)}", *wrong])
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("lie", "tool", "arguments"),
    [
        (rows_of(texts("title", ["a", "b"])), "get", {"ids": [1]}),
        (rows_of(texts("title", ["a", "b"])), "count", {}),
        (rows_of(texts("count(*)", ["many"])), "count", {}),
        (rows_of(numbers("id", [1]), jsons("$meta", [b"[1]"])), "query", {}),
        (hits_of(num_queries=0), "search", {"vector": [1, 1]}),
        (hits_of(num_queries=0), "hybrid_search", {"legs": [{"vector": [1, 1]}, {"vector": [2, 1]}]}),
    ],
)
async def test_an_answer_that_makes_no_sense_is_milvus_s_failure(
    lie: Answer, tool: str, arguments: dict[str, Any]
) -> None:
    async with fake_milvus(VERSION) as fake, agent_on(fake.uri) as agent:
        lie(fake)
        assert (await agent.fails(tool, **P, **arguments))["code"] == "milvus_error"


def told_too_much(answer: dict[str, Any]) -> str:
    text = json.dumps(answer, ensure_ascii=False)
    if SECRET in text or "10.1.2.3" in text:
        return f"tells a secret: {text[:200]}"
    if any(hidden in text for hidden in ("\\u001b", "\u202e", "\U000e0041")):
        return f"has what a reader cannot see: {text[:200]}"
    return f"{len(text)} characters" if len(text) > 200_000 else ""
