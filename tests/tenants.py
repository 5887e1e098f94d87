"""Two tenants in one collection, and the same without the second: what the first is told has to be the same."""

import itertools
import json
import random
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.calls import call
from mcp_server_milvus.policy import LOCAL, Caller
from mcp_server_milvus.settings import load_settings
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Scope
from tests.agent import UNATTENDED

BY_NAME: dict[str, Tool[Any, Any]] = {tool.name: tool for tool in TOOLS}
SCOPES = frozenset({Scope.READ, Scope.WRITE})
A = Caller("a", scopes=SCOPES, mandatory_filter='tenant == "a"', key_prefix="a-")
B = Caller("b", scopes=SCOPES, mandatory_filter='tenant == "b"', key_prefix="b-")
MARKS = [*(f"a{number}" for number in range(4)), *(f"b{number}" for number in range(4)), "z0", "z1"]
"""How tests call entities: of a, of b, and of nobody."""


@dataclass(frozen=True)
class Key:
    """The primary key of an entity, whatever it is in each of two collections."""

    mark: str


Result = dict[str, Any]


async def told(app: App, caller: Caller, tool: str, **arguments: Any) -> Result:
    """What a caller is told, success or not."""
    seen = app.seen_by(caller)
    assert seen.policy.permits(BY_NAME[tool])
    result: Any = await call(BY_NAME[tool], seen, arguments)
    assert result.structured_content.get("code") != "internal", result
    return result.structured_content


async def done(app: App, tool: str, **arguments: Any) -> Result:
    """The result of a call of the operator's that succeeds."""
    result = await told(app, LOCAL, tool, **arguments)
    assert "code" not in result, result
    return result


@dataclass(frozen=True)
class Shape:
    """A schema and its entities, random but always the same for a seed."""

    name: str
    fields: list[Result]
    dynamic: bool
    auto_id: bool
    entities: list[Result]

    @classmethod
    def of(cls, seed: int, *, auto_id: bool, text_keys: bool, declared: bool, scalars: int) -> "Shape":
        dice = random.Random(seed)  # noqa: S311  # no secret
        key = {"name": "id", "type": "VARCHAR" if text_keys else "INT64", "is_primary": True, "auto_id": auto_id}
        others: list[Result] = [
            {"name": "n", "type": "INT64"},
            {"name": "real", "type": dice.choice(["FLOAT", "DOUBLE"])},
            {"name": "flag", "type": "BOOL"},
            {"name": "label", "type": "VARCHAR", "max_length": 100},
            {"name": "meta", "type": "JSON"},
            {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_length": 50, "max_capacity": 5},
        ]
        fields: list[Result] = [
            key | ({"max_length": 100} if text_keys else {}),
            {"name": "mark", "type": "VARCHAR", "max_length": 20},
            *([{"name": "tenant", "type": "VARCHAR", "max_length": 20}] if declared else []),
            *dice.sample(others, scalars),
            {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        ]
        names = [str(each["name"]) for each in fields]
        entities = [_entity(dice, names, who, number) for number in range(4) for who in "ab"]
        for number, entity in enumerate(entities if not auto_id else []):
            entity["id"] = f"{entity['tenant']}-{number}" if text_keys else 10 + number
        return cls(f"shape_{seed}", fields, not declared or dice.random() < 0.5, auto_id, entities)

    @property
    def names(self) -> list[str]:
        return [each["name"] for each in self.fields]


def _entity(dice: random.Random, names: list[str], who: str, number: int) -> Result:
    values: Result = {
        "mark": f"{who}{number}",
        "tenant": who,
        "n": 2**60 + number if who == "b" else dice.randint(-3, 3),
        "real": dice.choice([0.0, 1.5, -2.25]),
        "flag": dice.random() < 0.5,
        "label": dice.choice(["x", "SECRET-B" if who == "b" else "y", 'q" or 1 == 1']),
        "meta": {"a": dice.choice([1, "t", [1], None]), "owner": who},
        "tags": dice.sample(["x", "y", who], 2),
        "vector": [dice.random(), dice.random()],
    }
    return {name: value for name, value in values.items() if name in names or name == "tenant"}


@dataclass
class World:
    """One database, and the keys of its entities."""

    app: App
    keys: dict[str, Any] = field(default_factory=dict[str, Any])

    async def fill(self, shape: Shape, *, tenants: str) -> None:
        named = {"collection_name": shape.name}
        await done(self.app, "create_collection", **named, fields=shape.fields, enable_dynamic_field=shape.dynamic)
        entities = [entity for entity in shape.entities if entity["tenant"] in tenants]
        await done(self.app, "insert", **named, data=entities)

    async def look(self, shape: Shape) -> None:
        """Learns the keys that there are now."""
        self.keys = {entity["mark"]: entity["id"] for entity in await self.entities(shape, "")}

    async def restore(self, shape: Shape) -> None:
        """Makes a's entities what they were."""
        named = {"collection_name": shape.name}
        gone = [each for each in shape.entities if each["tenant"] == "a"]
        if {mark for mark in self.keys if mark[0] == "a"} < {each["mark"] for each in gone} or "w" in str(self.keys):
            await done(self.app, "delete", **named, filter='tenant == "a"')
            await done(self.app, "insert", **named, data=gone)
            await self.look(shape)

    async def entities(self, shape: Shape, matching: str) -> list[Result]:
        fields = [*shape.names, *(["tenant"] if shape.dynamic else [])]
        found = await done(
            self.app, "query", collection_name=shape.name, filter=matching, limit=1_000, output_fields=fields
        )
        return found["entities"]


class Pair:
    """Both tenants in one database, and the first alone in the other."""

    def __init__(self, shared: World, alone: World, shape: Shape) -> None:
        self.shared = shared
        self.alone = alone
        self.shape = shape
        self.fresh = itertools.count()

    def __repr__(self) -> str:
        return self.shape.name

    async def same(self, tool: str, arguments: Mapping[str, Any]) -> tuple[Result, Result]:
        """What a is told in each; apart from keys and databases it has to be the same."""
        answers = [
            await told(world.app, A, tool, **self.placed(world, arguments)) for world in (self.shared, self.alone)
        ]
        first, second = (
            self.plain(world, answer) for world, answer in zip((self.shared, self.alone), answers, strict=True)
        )
        assert first == second, (tool, arguments, first, second)
        return answers[0], answers[1]

    async def same_pages(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """As `same`, with the pages that follow."""
        answers = await self.same(tool, arguments)
        for _ in range(3):
            cursors = [answer.get("next_cursor") for answer in answers]
            if None in cursors:
                assert cursors == [None, None]
                return
            worlds = (self.shared, self.alone)
            following = [
                await told(world.app, A, tool, **self.placed(world, arguments), cursor=cursor)
                for world, cursor in zip(worlds, cursors, strict=True)
            ]
            first, second = (self.plain(world, each) for world, each in zip(worlds, following, strict=True))
            assert first == second, (tool, arguments, first, second)
            answers = (following[0], following[1])

    def placed(self, world: World, value: Any) -> Any:
        """The arguments with the keys that they mean in a world; of an entity that is not there, one that none has."""
        match value:
            case Key(mark):
                key = world.keys.get(mark, self.shared.keys.get(mark))
                text_keys = self.shape.fields[0]["type"] == "VARCHAR" and not self.shape.auto_id
                taken = mark not in world.keys and key in world.keys.values()
                return (
                    (f"{mark[0]}-{mark}" if text_keys else 10**12 + MARKS.index(mark)) if key is None or taken else key
                )
            case dict():
                return {name: self.placed(world, each) for name, each in value.items()}
            case list():
                return [self.placed(world, each) for each in value]
            case _:
                return value

    def plain(self, world: World, answer: Result) -> str:
        """An answer as text, without what differs between the two databases."""
        marks = {str(self.placed(world, Key(mark))): mark for mark in [*MARKS, *world.keys]}
        text = json.dumps(_without_keys(answer, marks if self.shape.auto_id else None), sort_keys=True)
        if self.shape.auto_id and "code" in answer:
            text = re.sub(r"\b[0-9]+\b", "NUMBER", text)
        names = [each.app.settings.db_name for each in (self.shared, self.alone)]
        return text.replace(names[0], "DATABASE").replace(names[1], "DATABASE")


def _without_keys(value: Any, marks: Mapping[str, str] | None) -> Any:
    """The value with marks for keys, and without cursors."""
    if isinstance(value, list):
        return [_without_keys(each, marks) for each in value]
    if not isinstance(value, dict):
        return value
    kept: Result = {}
    for name, each in value.items():
        if name in {"id", "ids", "missing_ids"} and marks is not None:
            kept[name] = [marks.get(str(key), "?") for key in (each if isinstance(each, list) else [each])]
        elif name == "next_cursor":
            kept[name] = "CURSOR"
        else:
            kept[name] = _without_keys(each, marks)
    return kept


@asynccontextmanager
async def pair(backend: Mapping[str, Any], shapes: list[Shape], suffix: str) -> AsyncGenerator[list[Pair]]:
    """The shapes in two new databases of a backend."""
    names = [f"shared_{suffix}", f"alone_{suffix}"]
    async with open_app(load_settings(UNATTENDED | dict(backend))) as operator:
        for name in names:
            await done(operator, "create_database", db_name=name)
    first, second = (load_settings(UNATTENDED | dict(backend) | {"db_name": name}) for name in names)
    async with open_app(first) as shared, open_app(second) as alone:
        pairs: list[Pair] = []
        for shape in shapes:
            worlds = World(shared), World(alone)
            for world, tenants in zip(worlds, ("ab", "a"), strict=True):
                await world.fill(shape, tenants=tenants)
                await world.look(shape)
            pairs.append(Pair(*worlds, shape))
        yield pairs


# What a hostile a may call

ATOMS = (
    *('tenant == "b"', 'tenant != "a"', 'tenant in ["a", "b"]', 'tenant like "%"', "tenant == 'b'", "true", "1 == 1"),
    *('id != ""', "id > 0", "id >= 0", 'mark == "b0"', 'mark like "b%"', 'mark like "a%"', 'mark in ["a0", "b0"]'),
    *("n > 0", "n > 1.5", "n / 2 > 1", "n + 0.5 > 1", "n == 1152921504606846976", "n > real", "-3 <= n", "n % 2 == 0"),
    *(
        "n in [1.5]",
        "n * 8 > 0",
        "real > 0.5",
        "real / n > 0",
        "flag == true",
        'label == "SECRET-B"',
        'label like "S%"',
    ),
    *("label == 'q\" or 1 == 1'", 'meta["owner"] == "b"', 'meta["owner"] != "a"', 'meta["a"] in [1]', 'meta["a"] > 0'),
    *("exists meta", 'meta["a"] is null', 'array_contains(tags, "b")', "array_length(tags) > 1", 'tags[0] == "b"'),
    *('json_contains(meta["a"], 1)', '$meta["tenant"] == "b"', "tenant is null", "not (tenant is not null)"),
    *("nothing == 1", "random_sample(0.5)", 'id == "b-1"', "id in [11, 13]", "vector == 1", "count(*) > 1"),
)
"""Filters that only a backend can judge: they find b's entities, or fail where there are some."""

BROKEN = (
    *("x) or (true", '") or (true', '\\") or (true', '"', "'", 'mark == "a\\u0030"', 'mark == "\\x62"', "mark == `b0`"),
    *(
        "true /* ",
        "true -- ",
        "true # ",
        "true ; true",
        "true\x00",
        "\uff54rue",
        "{name}",
        "((true)",
        "[",
        "true) or (true",
    ),
    *('tenant == "b\\', 'tenant == "b\' or \'" == "', " ", "or", "not", "== 1", "(", "true or", "true and ()"),
    *('mark == "b0" || "', "1 == 1 or tenant == 'a\\' or 1 == 1 or \"' == \"'", "true\u2028or true", "true\\"),
)
"""Filters that try to leave their brackets, or that two readers may read differently."""

KEYS = st.sampled_from(MARKS).map(Key)
VECTORS = st.sampled_from([[0.1, 0.9], [1.0, 0.0], [0.5, 0.5]])
LIMITS = st.integers(1, 3)
Calls = dict[str, st.SearchStrategy[Result]]


def _arguments(needed: Mapping[str, Any], **optional: Any) -> st.SearchStrategy[Result]:
    return st.fixed_dictionaries(dict(needed), optional=optional)


def filters_of(shape: Shape) -> st.SearchStrategy[str]:
    """Filters on the fields of a shape, most of which a backend understands."""
    fields = {"n", "real", "flag", "label", "meta", "tags"} - set(shape.names)
    atoms = st.sampled_from([atom for atom in ATOMS if not fields & set(re.findall(r"\w+", atom))])
    broken = st.sampled_from(BROKEN)
    combined = st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "or", "&&", "||", "OR"]), inner).map(" ".join),
            inner.map("not ({})".format),
            inner.map("({})".format),
        ),
        max_leaves=3,
    )
    return st.one_of(combined, combined, combined, broken, st.tuples(atoms, broken).map(" or ".join))


def calls_of(shape: Shape) -> Calls:
    """What each tool that a tenant has can be asked about a collection of this shape."""
    filters = filters_of(shape)
    names = st.sampled_from([name for name in shape.names if name not in {"id", "vector", "meta"}])
    written = _arguments(
        {"vector": VECTORS} | ({} if shape.auto_id else {"id": KEYS}),
        tenant=st.sampled_from(["a", "a", "a", "b", "a' or 'b", 1]),
        **({"id": KEYS} if shape.auto_id else {}),
    )
    data = st.lists(written, min_size=1, max_size=2)
    leg = _arguments({"vector": VECTORS}, filter=filters)
    nothing = st.just({"collection_name": None})
    return {
        "search": st.one_of(
            _arguments(
                {"vector": VECTORS, "limit": LIMITS, "filter": filters},
                offset=LIMITS,
                exact=st.just(value=True),
                output_fields=st.sampled_from([["*"], ["mark"], ["$meta"]]),
                radius=st.just(0.1),
            ),
            _arguments({"id": KEYS, "limit": LIMITS}, filter=filters),
            _arguments({"vector": VECTORS}, group_by_field=names, filter=filters),
        ),
        "hybrid_search": _arguments(
            {"legs": st.lists(leg, min_size=1, max_size=2), "limit": LIMITS},
            filter=filters,
            output_fields=st.just(["mark"]),
        ),
        "aggregate": _arguments(
            {"aggregates": st.sampled_from([["count"], ["max(mark)", "count"], ["distinct(mark)"]]), "filter": filters},
            group_by=names.map(lambda name: [name]),
        ),
        "query": _arguments(
            {"limit": LIMITS, "filter": filters},
            order_by=names.map(lambda name: [f"{name} desc"]),
            output_fields=st.sampled_from([["*"], ["mark"], ["tenant"]]),
        ),
        "get": _arguments({"ids": st.lists(KEYS, min_size=1, max_size=3)}),
        "count": _arguments({"filter": filters}),
        "insert": _arguments({"data": data}),
        "upsert": _arguments({"data": data}),
        "delete": st.one_of(
            _arguments({"ids": st.lists(KEYS, min_size=1, max_size=2)}), _arguments({"filter": filters})
        ),
        "describe_collection": st.just({}),
        "list_partitions": st.just({}),
        "list_collections": nothing,
        "list_aliases": st.just({}),
        "list_databases": nothing,
        "describe_database": nothing,
        "list_dropped": nothing,
        "run_analyzer": st.just({"texts": ["plain words"], "field_name": "mark"}),
    }


OFTEN = (
    "search",
    "hybrid_search",
    "aggregate",
    "query",
    "get",
    "count",
    "insert",
    "upsert",
    "upsert",
    "delete",
    "delete",
)


def steps_of(shape: Shape) -> st.SearchStrategy[list[tuple[str, Result]]]:
    """A few calls, most of them of tools that read or write entities."""
    calls = calls_of(shape)
    tools = st.sampled_from([*OFTEN, *OFTEN, *calls])
    return st.lists(tools.flatmap(lambda tool: st.tuples(st.just(tool), calls[tool])), min_size=1, max_size=4)


SHAPES = [
    Shape.of(1, auto_id=False, text_keys=True, declared=True, scalars=6),
    Shape.of(2, auto_id=False, text_keys=False, declared=False, scalars=4),
    Shape.of(3, auto_id=True, text_keys=False, declared=True, scalars=5),
    Shape.of(4, auto_id=False, text_keys=True, declared=False, scalars=3),
]
DRAWN = st.integers(0, len(SHAPES) - 1).flatmap(lambda number: st.tuples(st.just(number), steps_of(SHAPES[number])))
"""The number of a shape, and calls."""

MANY = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # what a call changes stays changed: nothing smaller would show the same
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


async def makes_no_difference(both: Pair, matching: str) -> None:
    """Whatever reads by this filter tells a the same with b and without."""
    named = {"collection_name": both.shape.name}
    vector = [0.3, 0.7]
    await both.same("query", named | {"filter": matching, "output_fields": ["*"]})
    await both.same("count", named | {"filter": matching})
    await both.same("aggregate", named | {"filter": matching, "aggregates": ["count", "max(mark)"]})
    await both.same("search", named | {"filter": matching, "vector": vector})
    await both.same("hybrid_search", named | {"legs": [{"vector": vector, "filter": matching}, {"vector": vector}]})


async def keeps_apart(both: Pair, steps: list[tuple[str, Result]]) -> None:
    """Carries out the steps as a: b's entities stay what they are, and make no difference."""
    shape = both.shape
    for world in (both.shared, both.alone):
        await world.restore(shape)
    before = await both.shared.entities(shape, 'tenant == "b"')
    for tool, drawn in steps:
        given: Result = {"collection_name": shape.name} | drawn
        arguments = {name: value for name, value in given.items() if value is not None}
        if "data" in arguments:
            arguments["data"] = [_written(both, entity) for entity in arguments["data"]]
        await both.same_pages(tool, arguments)
        if tool in {"insert", "upsert", "delete"}:
            await both.shared.look(shape)
            await both.alone.look(shape)
    assert await both.shared.entities(shape, 'tenant == "b"') == before
    assert not await both.shared.entities(shape, 'not (tenant in ["a", "b"])')


def _written(both: Pair, entity: Result) -> Result:
    """An entity that fits the schema, apart from what is wrong with it on purpose."""
    shape = both.shape
    like = next(each for each in shape.entities if each["tenant"] == "a")
    whole = {name: value for name, value in like.items() if name not in {"id", "tenant"}} | entity
    whole["mark"] = f"w{next(both.fresh)}"
    return {name: value for name, value in whole.items() if name in shape.names or name == "tenant"}
