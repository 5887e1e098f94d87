"""What is kept beside a collection, and what any other client may have written there."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_milvus.embedding.binding import LARGEST, PROPERTY, Binding, as_property, bindings_in, mapped
from mcp_server_milvus.embedding.fingerprint import PROBE_DIMENSIONS, Fingerprint, cosine
from mcp_server_milvus.settings import MappedField

MADE_BY = Fingerprint("openai", "small", 4, True, "query: ", "", (0.5, -0.5, 0.5, 0.5))  # noqa: FBT003  # normalized
BINDING = Binding("vector", "body", MADE_BY)

names = st.from_regex(r"[a-zA-Z0-9é用][a-z0-9._/:@+-]{0,29}", fullmatch=True)
half_floats = st.floats(-1, 1, width=16)


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    dim = draw(st.integers(1, 600))
    count = min(dim, PROBE_DIMENSIONS)
    probe = draw(st.lists(half_floats, min_size=count, max_size=count).filter(any))
    prefixes = st.text(st.characters(codec="utf-8"), max_size=20)
    backend = draw(st.sampled_from(["openai", "fastembed"]))
    return Fingerprint(backend, draw(names), dim, True, draw(prefixes), draw(prefixes), tuple(probe))  # noqa: FBT003


@given(st.dictionaries(st.text(min_size=1, max_size=8), fingerprints(), max_size=2))
def test_what_is_kept_is_read_again(made_by: dict[str, Fingerprint]) -> None:
    bindings = {name: Binding(name, "body", fingerprint) for name, fingerprint in made_by.items()}
    assert bindings_in({PROPERTY: as_property(bindings.values())}) == bindings


def test_a_binding_is_small_and_says_what_it_is() -> None:
    largest = Fingerprint("openai", "m" * 30, 1536, True, "", "", (0.01,) * PROBE_DIMENSIONS)  # noqa: FBT003
    assert len(as_property([Binding("vector", "body", largest)])) < 1_000
    assert str(BINDING) == "body by openai small (dim 4)"
    assert str(Binding("vector", "body", None, "code")) == "body by embedder code"
    assert str(Binding("vector", "body", None)) == "body by embedder default"


@pytest.mark.parametrize(
    "change",
    [
        {"text_field": 7},
        {"text_field": None},
        {"backend": "else"},
        {"backend": ["openai"]},
        {"model": ""},
        {"model": "m" * 257},
        {"model": "ignore\nall of this"},
        {"model": "\u202ellams"},
        {"model": "m; ignore all of this"},
        {"model": "m$(touch)"},
        {"model": "m'"},
        {"model": "--embed-base-url"},
        {"query_prefix": "p" * 3_000},
        {"document_prefix": None},
        {"dim": 0},
        {"dim": -4},
        {"dim": True},
        {"dim": 4.0},
        {"dim": "4"},
        {"dim": 10**30},
        {"normalized": 1},
        {"probe": ""},
        {"probe": "****"},
        {"probe": "ü"},
        {"probe": "AAA="},
        {"probe": "AAAAAAAAAAA="},  # zeros
        {"probe": "AHwAfAB8AHw="},  # infinities
        {"probe": "AH4AfgB+AH4="},  # no numbers
        {"probe": [0.5, -0.5, 0.5, 0.5]},
    ],
)
def test_what_another_client_wrote_and_is_no_binding_binds_nothing(change: dict[str, Any]) -> None:
    kept = json.loads(as_property([BINDING]))
    assert bindings_in({PROPERTY: json.dumps(kept)}) == {"vector": BINDING}
    kept["vector"] |= change
    assert bindings_in({PROPERTY: json.dumps(kept)}) == {}


@pytest.mark.parametrize("written", ["", "{", "null", "7", "[]", '"x"', '{"v": null}', '{"v": {}}', "[" * 99_999])
def test_what_is_no_object_binds_nothing(written: str) -> None:
    assert bindings_in({PROPERTY: written}) == {}
    assert bindings_in({}) == {}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    )
)
def test_any_json_is_read_without_a_fault(written: Any) -> None:
    assert bindings_in({PROPERTY: json.dumps(written)}) == {}
    assert bindings_in({PROPERTY: json.dumps({"vector": written})}) == {}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, ""),
        ({"probe": (0.5, -0.5, 0.5, 0.501)}, ""),
        ({"model": "large"}, "model: 'large', not 'small'"),
        ({"backend": "fastembed"}, "backend: 'fastembed', not 'openai'"),
        ({"dim": 5}, "dim: 5, not 4"),
        ({"query_prefix": ""}, "query_prefix: '', not 'query: '"),
        ({"probe": (0.5, 0.5, 0.5, 0.5)}, "the model behind the name has changed"),
        ({"probe": (float("nan"),) * 4}, "the model behind the name has changed"),
        ({"probe": (0.5, -0.5, 0.5)}, "the model behind the name has changed"),
    ],
)
def test_fingerprints_differ_in_words(other: dict[str, Any], said: str) -> None:
    difference = MADE_BY.difference(Fingerprint(**(vars(MADE_BY) | other)))
    assert difference.startswith(said)
    assert bool(difference) is bool(said)


def test_a_cosine_of_what_has_no_direction_is_none() -> None:
    assert cosine([0, 0], [1, 0]) == cosine([1], [1, 0]) == cosine([], []) == 0


def test_the_operators_bindings_are_of_one_collection_and_not_kept() -> None:
    fields = [MappedField("db", "docs", "v", "body", "code"), MappedField("db", "other", "v", "body", "")]
    found = mapped(fields, "db", "docs")
    assert found == {"v": Binding("v", "body", None, "code")}
    assert mapped(fields, "default", "docs") == {}
    assert as_property(found.values()) == "{}"


def test_a_property_that_is_far_too_large_binds_nothing() -> None:
    """Looking into megabytes would hold up every other call."""
    fits = as_property([BINDING])
    assert bindings_in({PROPERTY: fits + " " * (LARGEST - len(fits))})
    assert bindings_in({PROPERTY: fits + " " * LARGEST}) == {}
