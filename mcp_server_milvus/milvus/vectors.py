"""Vectors of the types that JSON has no numbers for: packed into bytes for Milvus, and unpacked from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mcp_server_milvus.vocabulary import DataType, MetricType


def vector_bytes(kind: DataType, numbers: list[Any]) -> bytes:
    """The vector as Milvus stores it: two bytes a number (FLOAT16, BFLOAT16), one (INT8), or one bit (BINARY)."""
    match kind:
        case DataType.FLOAT16_VECTOR:
            return np.array(numbers, dtype="<f2").tobytes()
        case DataType.BFLOAT16_VECTOR:
            return _rounded_to_bfloat16(np.array(numbers, dtype="<f4")).tobytes()
        case DataType.INT8_VECTOR:
            return np.array(numbers, dtype=np.int8).tobytes()
        case _:
            return np.packbits(np.array(numbers, dtype=np.uint8)).tobytes()


def vector_numbers(kind: DataType, stored: Any) -> list[Any]:
    """The numbers of a stored vector: bits for BINARY, else the shortest decimals that mean the same number."""
    values = [stored] if isinstance(stored, bytes) else list(stored)  # a hit holds the bytes, a queried entity a list
    numbers = _unpacked(kind, values[0]) if values and isinstance(values[0], bytes) else values
    if kind in {DataType.BINARY_VECTOR, DataType.INT8_VECTOR}:
        return [int(number) for number in numbers]
    precision = np.float16 if kind is DataType.FLOAT16_VECTOR else np.float32
    return [shortest(number) for number in np.asarray(numbers, dtype=precision)]


def distances(kind: DataType, metric_type: str, sought: Any, stored: Sequence[Any]) -> list[float]:
    """The score of each stored vector as Milvus defines it; L2 is squared. Each depends on its own vector alone.

    With NaN or infinity in a vector, its score is not finite.
    """
    if not stored:
        return []
    if kind is DataType.BINARY_VECTOR:
        return _bit_distances(metric_type, _matrix(kind, [sought]), _matrix(kind, stored))
    one, many = _matrix(kind, [sought])[0], _matrix(kind, stored)
    with np.errstate(invalid="ignore"):
        scores = ((many - one) ** 2).sum(axis=1) if metric_type == MetricType.L2 else (many * one).sum(axis=1)
        if metric_type == MetricType.COSINE:
            lengths = np.sqrt((many**2).sum(axis=1) * (one**2).sum())
            scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths != 0)
    return [float(score) for score in scores]


def lengths(kind: DataType, stored: Sequence[Any]) -> list[float]:
    """The Euclidean length of each vector; of bits, how many are set. With NaN or infinity it is not finite."""
    if not stored:
        return []
    with np.errstate(invalid="ignore"):
        squares = (_matrix(kind, stored) ** 2).sum(axis=1, dtype=np.float64)
    return [float(length) for length in (squares if kind is DataType.BINARY_VECTOR else np.sqrt(squares))]


def most_alike(kind: DataType, stored: Sequence[Any]) -> int:
    """How many of the vectors are the same one, at most."""
    if not stored:
        return 0
    _, counts = np.unique(_matrix(kind, stored), axis=0, return_counts=True)
    return int(counts.max())


def score_matrix(kind: DataType, metric_type: str, sought: Sequence[Any], stored: Sequence[Any]) -> Any:
    """The scores of the stored vectors, one column for each, with each of those sought: the lines. As `distances`."""
    some, many = (_matrix(kind, vectors).astype(np.float64) for vectors in (sought, stored))
    with np.errstate(invalid="ignore", over="ignore"):
        products = some @ many.T
        sizes, others = (some**2).sum(axis=1)[:, None], (many**2).sum(axis=1)[None, :]
        match metric_type:
            case MetricType.IP:
                return products
            case MetricType.COSINE:
                both = np.sqrt(sizes * others)
                return np.divide(products, both, out=np.zeros_like(products), where=both != 0)
            case MetricType.JACCARD:
                either = sizes + others - products
                return np.divide(either - products, either, out=np.zeros_like(products), where=either > 0)
            case _:  # of bits, the squared distance is how many differ
                return np.maximum(sizes + others - 2 * products, 0)


def sparse_score_matrix(sought: Sequence[Any], stored: Sequence[Any]) -> Any:
    """As `score_matrix`, by IP. Vectors without a common dimension have NaN as their score: an index finds none."""
    weights: dict[int, list[tuple[int, float]]] = {}
    for line, vector in enumerate(sought):
        for index, weight in vector.items():
            weights.setdefault(index, []).append((line, weight))
    scores = np.full((len(sought), len(stored)), np.nan)
    for column, vector in enumerate(stored):
        sums: dict[int, float] = {}
        for index, value in vector.items():
            for line, weight in weights.get(index, ()):
                sums[line] = sums.get(line, 0.0) + weight * value
        for line, total in sums.items():
            scores[line, column] = total
    return scores


def _bit_distances(metric_type: str, one: Any, many: Any) -> list[float]:
    differing = (one != many).sum(axis=1)
    if metric_type == MetricType.HAMMING:
        return [float(count) for count in differing]
    either = (one | many).astype(bool).sum(axis=1)
    return [float(score) for score in np.divide(differing, either, out=np.zeros(len(many)), where=either > 0)]


def _matrix(kind: DataType, vectors: Sequence[Any]) -> Any:
    """The vectors as an array: of bits, or of 64-bit floats, in which sums of 32-bit ones are exact enough."""
    if isinstance(vectors[0], bytes) or isinstance(vectors[0][0], bytes):  # a queried entity has them in a list
        stored = b"".join(vector if isinstance(vector, bytes) else vector[0] for vector in vectors)
        numbers = _unpacked(kind, stored).reshape(len(vectors), -1)
    else:
        numbers = np.array([list(vector) for vector in vectors])
    return numbers if kind is DataType.BINARY_VECTOR else numbers.astype(np.float64)


def _unpacked(kind: DataType, data: bytes) -> Any:
    match kind:
        case DataType.FLOAT16_VECTOR:
            return np.frombuffer(data, dtype="<f2")
        case DataType.BFLOAT16_VECTOR:
            return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4")
        case DataType.INT8_VECTOR:
            return np.frombuffer(data, dtype=np.int8)
        case _:
            return np.unpackbits(np.frombuffer(data, dtype=np.uint8))


def shortest(number: Any) -> float:
    """The decimal with the fewest digits that is this number in its own precision: 0.1, not 0.10000000149011612."""
    return float(str(number))


def _rounded_to_bfloat16(numbers: Any) -> Any:
    """The upper halves of 32-bit floats, rounded to nearest even."""
    bits = numbers.view("<u4").astype("<u8")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
