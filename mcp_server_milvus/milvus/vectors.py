"""Vectors of the types that JSON has no numbers for: packed into bytes for Milvus, and unpacked from them."""

from typing import Any

import numpy as np

from mcp_server_milvus.vocabulary import DataType


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
