"""Keys, filters and everything else that becomes part of an expression: nothing of it is ever more than a value."""

import math
from typing import Any

import pytest

from tests.agent import Agent
from tests.hostile.precious import TEXT_KEYS, Attacks, K, P

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unchanged")]

WRONG = "invalid_argument"
BAD = (WRONG, "invalid_filter")

INJECTIONS = [
    "zz'] or pk != '' or pk in ['",
    'zz"] or pk != "" or pk in ["q',
    'zz\\"] or pk != "',
    "zz\\",
    "\\",
    "'",
    '"',
    "''",
    '""',
    "pk",
    "{pk}",
    "{filter}",
    "*",
    "1 or 1 == 1",
    "]",
    ") or (pk != ''",
    "-- ",
    "/* */",
    "#",
    ";",
    "\0",
    "\u0022] or pk != \u0022",
    "\uff02] or pk != \uff02",
    "\u2028",
    "\u202e",
    "x" * 5_000,
]
"""Texts that are not among the keys."""

NO_KEYS: list[Any] = [
    [1.0],
    [1.5],
    [math.nan],
    [math.inf],
    [True],
    [None],
    [[1]],
    [{"id": 1}],
    [[]],
    [b"x"],
    [1, [2]],
    [],
    "1",
    1,
    {"0": 1},
    [2**53],
    [-(2**63)],
    [2**63],
    [10**400],
    [str(2**63)],
    ["9" * 5_000],
    ["1e3"],
    ["0x10"],
    ["\uff11"],
    ["1_0"],
    [" 1"],
    ["1 or id > 0"],
    [""],
    list(range(10_001)),
]
"""What is no list of integer keys."""

BROKEN_FILTERS = [
    "id > 0)",
    "(id > 0",
    "id in [1, 2",
    "id in [1]]",
    'title == "x',
    "title == 'x",
    'title == "x" or title == "',
    "id > 0) or (id > 0",
    "1) or (1 == 1",
    'title == "\\"',
    "id > {x}",
    "id > 0; drop collection precious",
    "id > 0 -- or",
    "id > 0 /* or */ and",
    "drop collection precious",
    "id > 0 union select id",
    "sleep(10)",
    "__import__('os').system('true')",
    "exec(id)",
    "text_match(title, 'x'",
    "phrase_match(title",
    "id > 0 and",
    "and",
    "${id}",
    "{{id}} > 0",
    "\ud800",
    "\0",
    "id > \0",
    "title like",
    "id in",
    "id in {}",
    "not",
    "[",
    "{",
    "\\",
    "(" * 10_000 + "id > 0" + ")" * 10_000,
    "not " * 10_000 + "id > 0",
    "[" * 20_000 + "]" * 20_000,
    "id == " + "9" * 10_000,
]


async def test_hostile_text_keys_are_keys_that_nobody_has(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    for key in INJECTIONS:
        missing = {"missing_ids": [key]} if key.isprintable() else {}  # an answer has nothing that cannot be seen
        await attacks.give("get", {"entities": []} | missing, [K | {"ids": [key]}])
    await attacks.give("delete", {"delete_count": 0}, [K | {"ids": [key]} for key in INJECTIONS])
    await attacks.give("delete", {"delete_count": 0}, [K | {"ids": INJECTIONS}])
    await attacks.fail("search", "not_found", calls=[K | {"id": key} for key in INJECTIONS])
    for key in TEXT_KEYS:
        vector = {"pk": key}
        await attacks.give("get", {"entities": [vector]}, [K | {"ids": [key], "output_fields": ["pk"]}])
        await attacks.give("count", {"count": 1}, [K | {"filter": "pk == {k}", "filter_params": {"k": key}}])
        await attacks.give("count", {"count": 1}, [K | {"filter": "pk in {k}", "filter_params": {"k": [key]}}])
    attacks.check()


async def test_what_is_no_key_is_refused_wherever_a_key_is_asked_for(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    await attacks.fail("get", WRONG, calls=[P | {"ids": keys} for keys in NO_KEYS])
    await attacks.fail("delete", WRONG, calls=[P | {"ids": keys} for keys in NO_KEYS])
    single = [keys[0] for keys in NO_KEYS if isinstance(keys, list) and len(keys) == 1 and keys[0] is not None]
    await attacks.fail("search", WRONG, calls=[P | {"id": key} for key in single])
    entity = {"title": "t", "meta": {}, "vector": [0, 1]}
    numbers = [key for key in single if key not in (1.0, 2**53)]  # which are keys when entities are written
    for tool in ("insert", "upsert"):
        await attacks.fail(tool, WRONG, calls=[P | {"data": [entity | {"id": key}]} for key in numbers])
    lone: list[dict[str, Any]] = [K | {"ids": ["\ud800"]}, K | {"ids": ["a\udfff"]}]
    await attacks.fail("get", WRONG, calls=lone)
    await attacks.fail("delete", WRONG, calls=lone)
    numbers_as_text = [K | {"ids": [1]}, K | {"ids": [True]}, K | {"ids": [1.5]}]
    await attacks.fail("delete", WRONG, calls=numbers_as_text)
    attacks.check()


async def test_a_filter_that_is_none_is_refused_by_every_tool_that_takes_one(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    await attacks.fail("delete", *BAD, calls=[P | {"filter": filter_} for filter_ in BROKEN_FILTERS])
    readers = (("query", {}), ("count", {}), ("aggregate", {}), ("search", {"vector": [1, 1]}))
    for number, (tool, rest) in enumerate(readers):
        some = BROKEN_FILTERS[number :: len(readers)]
        await attacks.fail(tool, *BAD, calls=[P | rest | {"filter": filter_} for filter_ in some])
    legs = [{"vector": [1, 1]}, {"vector": [1, 2]}]
    few = BROKEN_FILTERS[:12]
    await attacks.fail("hybrid_search", *BAD, calls=[P | {"legs": legs, "filter": each} for each in few])
    in_leg = [P | {"legs": [legs[0], legs[1] | {"filter": each}]} for each in few]
    await attacks.fail("hybrid_search", *BAD, calls=in_leg)
    await attacks.fail("export_file", *BAD, calls=[P | {"path": "x.jsonl", "filter": each} for each in few])
    attacks.check()


async def test_an_empty_filter_deletes_nothing(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    blank = ["", " ", "\n", "\t \r\n", "\u00a0", "\u2003", "\ufeff", "()", "''", '""', "[]"]
    calls = [P | {"filter": each} for each in blank]
    await attacks.fail("delete", *BAD, calls=[*calls, P, P | {"ids": [1], "filter": "id == 1"}])
    attacks.check()


async def test_the_value_of_a_parameter_is_never_an_expression(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    for value in INJECTIONS:
        for filter_ in ("title == {v}", "title in [{v}]", "title like {v}" if "%" not in value else "title == {v}"):
            await attacks.give("count", {"count": 0}, [P | {"filter": filter_, "filter_params": {"v": value}}])
    deletes = [P | {"filter": "title == {v}", "filter_params": {"v": each}} for each in INJECTIONS]
    await attacks.give("delete", {"delete_count": 0}, deletes)
    no_values: list[Any] = [
        None,
        {},
        {"__class__": 1},
        [{}],
        [[None]],
        math.nan,
        math.inf,
        10**30,
        10**4_000,
        -(2**63),
        "\ud800",
        nested(100),
        [10**400],
    ]
    calls = [P | {"filter": "id in {v}", "filter_params": {"v": each}} for each in no_values]
    for tool in ("count", "delete", "query"):
        await attacks.fail(tool, *BAD, calls=calls)
    search = [call | {"vector": [1, 1]} for call in calls]
    await attacks.fail("search", *BAD, calls=search)
    await attacks.fail("aggregate", *BAD, calls=calls)
    await attacks.fail(
        "hybrid_search", *BAD, calls=[c | {"legs": [{"vector": [1, 1]}, {"vector": [1, 2]}]} for c in calls]
    )
    attacks.check()


async def test_parameters_have_plain_names_and_each_is_used(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    names = ["__class__", "__init__", "a.b", "a[0]", "0", "", "é", "v!r", "v:>9", "self", "}", "a b", "a" * 10_000]
    unused = [P | {"filter": "id > 0", "filter_params": {name: 1}} for name in names]
    for tool in ("count", "delete"):
        await attacks.fail(tool, *BAD, calls=unused)
        await attacks.fail(tool, *BAD, calls=[P | {"filter": f"id > {{{name}}}"} for name in names])
    formats = ["{v.__class__}", "{v[0]}", "{v!r}", "{0}", "{}", "%(v)s", "$v", "{v:d}", "{{v}}"]
    calls = [P | {"filter": f"id > {each}", "filter_params": {"v": 1}} for each in formats]
    await attacks.fail("delete", *BAD, calls=calls)
    quoted = [P | {"filter": 'title == "{v}"', "filter_params": {"v": "x"}}]
    await attacks.fail("count", *BAD, calls=quoted)
    await attacks.give("count", {"count": 15}, [P | {"filter": "id >= {__class__}", "filter_params": {"__class__": 0}}])
    attacks.check()


def nested(depth: int) -> Any:
    value: Any = [1]
    for _ in range(depth):
        value = [value]
    return value


async def test_what_orders_groups_and_aggregates_is_a_field_and_nothing_else(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    no_fields = [
        "",
        " ",
        "desc",
        "id; drop",
        "id, title",
        "id desc, title",
        "id) or (1 == 1",
        "count(*)",
        "*",
        "$meta",
        "$meta['a'",
        'meta["a"',
        "meta[a]",
        'meta["a"]["b"',
        'meta["\\x"]',
        "meta[-1]",
        "meta[1e3]",
        "meta[9999999999]",
        "id['a']",
        "vector",
        "../id",
        "id\0",
        "é ",
        "1",
        "id asc desc",
        "\ud800",
        "id " * 10_000,
        "(" * 10_000,
        "meta" + '["a' * 10_000,
    ]
    codes = (WRONG, "not_found")
    await attacks.end("query", [P | {"order_by": [each]} for each in no_fields], *codes)
    await attacks.end("aggregate", [P | {"group_by": [each]} for each in no_fields], *codes)
    await attacks.fail(
        "aggregate", *codes, calls=[P | {"order_by": [each]} for each in no_fields if each != "count(*)"]
    )
    functions = [
        "sum",
        "sum(",
        "sum()",
        "sum(*)",
        "max(id",
        "exec(id)",
        "sum(sum(id))",
        "count(distinct *)",
        "avg(title)",
    ]
    functions += [
        "sum(id) or 1",
        "sum(id); drop",
        "sum(id)(id)",
        "eval(1)",
        "median(id)",
        "\ud800",
        "sum(" * 10_000,
        "",
    ]
    await attacks.fail("aggregate", *codes, calls=[P | {"aggregates": [each]} for each in functions])
    await attacks.fail("aggregate", *codes, calls=[P | {"aggregates": ["count"] * 1 + [f"max({'x' * 20_000})("]}])
    strict = [K | {"order_by": [each]} for each in no_fields if each.strip()]
    await attacks.fail("query", *codes, calls=strict)
    attacks.check()


async def test_a_field_that_is_none_is_refused_or_absent_and_never_a_path(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    names = [
        "../id",
        "",
        "a" * 70_000,
        "count(*)",
        "*; drop",
        "$meta['a']",
        "\0",
        "\ud800",
        "a\nb",
        "id, vector",
        "{x}",
    ]
    for tool, rest in (("get", {"ids": ["plain"]}), ("query", {}), ("search", {"vector": [1, 1]})):
        await attacks.fail(tool, WRONG, calls=[K | rest | {"output_fields": [each]} for each in names])
        ids = {"ids": [1]} if tool == "get" else {}
        await attacks.end(tool, [P | rest | ids | {"output_fields": [each]} for each in names], WRONG, "milvus_error")
    await attacks.fail("export_file", WRONG, calls=[K | {"path": "x.jsonl", "output_fields": [each]} for each in names])
    attacks.check()


async def test_filters_and_lists_of_any_length_are_answered_in_time(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    long = 16_000
    many = [
        " or ".join(f"a{n} == 1" for n in range(1_000)),
        "meta" + '["a"]' * long + " == 1",
        'title == "' + "x" * long + '"',
        "id in [" + ", ".join(map(str, range(1_000, long // 10))) + "]",
        "a" * long,
        " " * long,
        '"' * long,
        '\\"' * long,
        "'\\" * long,
        "{" * long,
        "meta[" * (long // 10),
        "= " * long,
        "a-" * long,
        "a." * long,
        "collection " * long,
    ]
    await attacks.end("count", [P | {"filter": each} for each in many], *BAD, "limit_exceeded")
    names = [f"name_{n}" for n in range(20_000)]
    await attacks.end("query", [P | {"output_fields": names, "limit": 1}], WRONG, "limit_exceeded")
    await attacks.end("query", [P | {"order_by": names[:9]}], WRONG)
    await attacks.end("query", [P | {"partition_names": names}], "not_found", WRONG)
    await attacks.end("aggregate", [P | {"group_by": names}, P | {"aggregates": names}], WRONG)
    attacks.check()
