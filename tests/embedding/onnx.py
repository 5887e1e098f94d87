"""A model folder made on the spot: ten words, of which each has a vector; in the bytes of ONNX's protocol buffers."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ["[PAD]", "[UNK]", "[CLS]", "red", "green", "blue", "one", "two", "three", "four"]


def put_model(
    folder: Path,
    vectors: Sequence[Sequence[float]],
    *,
    file: str = "model.onnx",
    pooling: Any = None,
    pooled: bool = False,
) -> Path:
    """A folder whose model looks up a vector for each token; `pooled`: it also takes their mean by itself."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(model(vectors, pooled=pooled))
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 32, "pad_token": "[PAD]"}', "utf-8")
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    return folder


def model(vectors: Sequence[Sequence[float]], *, pooled: bool) -> bytes:
    dim = len(vectors[0])
    table = [number for vector in vectors for number in vector]
    weights = (
        b"".join(number(1, size) for size in (len(vectors), dim))
        + number(2, 1)
        + text(8, "table")
        + part(9, struct.pack(f"<{len(table)}f", *table))
    )
    nodes = [node("Gather", ["table", "input_ids"], "tokens")]
    if pooled:
        axes = text(1, "axes") + part(8, b"\x01") + number(20, 7)
        keep = text(1, "keepdims") + number(3, 0) + number(20, 2)
        nodes.append(node("ReduceMean", ["tokens"], "mean") + part(5, axes) + part(5, keep))
    graph = (
        b"".join(part(1, each) for each in nodes)
        + text(2, "lookup")
        + part(5, weights)
        + part(11, tensor("input_ids", 7, ["texts", "tokens"]))
        + part(12, tensor("mean", 1, ["texts", dim]) if pooled else tensor("tokens", 1, ["texts", "tokens", dim]))
    )
    return number(1, 8) + part(7, graph) + part(8, number(2, 13))


def node(operator: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(text(1, name) for name in inputs) + text(2, output) + text(4, operator)


def tensor(name: str, kind: int, sizes: Sequence[str | int]) -> bytes:
    shape = b"".join(part(1, text(2, size) if isinstance(size, str) else number(1, size)) for size in sizes)
    return text(1, name) + part(2, part(1, number(1, kind) + part(2, shape)))


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: str) -> bytes:
    return part(field, value.encode())


def part(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head += bytes([value & 127 | 128])
        value >>= 7
    return head + bytes([value])
