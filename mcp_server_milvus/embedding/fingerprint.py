"""What tells one embedder from another, and from what the same name meant yesterday."""

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

from mcp_server_milvus.settings import LONGEST_PREFIX, MODEL_NAME
from mcp_server_milvus.vocabulary import EmbedderBackend

PROBE_TEXT = (
    "Every vector of a field is made by one model; this sentence shows which one it was. 用同一个模型。 0123456789"
)
"""What each embedder is asked once, as a document, before its first use."""

PROBE_DIMENSIONS = 256
"""Numbers of that answer that are kept: enough to tell models apart, in 700 bytes."""

SAME_PROBE = 0.999
"""Cosine of two answers below which they are not of the same model."""


@dataclass(frozen=True)
class Fingerprint:
    """An embedder: `dim` numbers of length 1 (if `normalized`), each text behind its prefix.

    `probe` is the beginning of its answer to PROBE_TEXT.
    """

    backend: str
    model: str
    dim: int
    normalized: bool
    query_prefix: str
    document_prefix: str
    probe: tuple[float, ...]

    def __str__(self) -> str:
        """`openai text-embedding-3-small (dim 1536)`: how messages name an embedder."""
        return f"{self.backend} {self.model} (dim {self.dim})"

    def difference(self, other: "Fingerprint") -> str:
        """In what the other one is not this one, as `model: MiniLM, not e5`; empty when it is."""
        for name in ("backend", "model", "dim", "normalized", "query_prefix", "document_prefix"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name}: {theirs!r}, not {mine!r}"
        likeness = cosine(self.probe, other.probe)
        if not likeness >= SAME_PROBE:
            return f"the model behind the name has changed: it answers the same text otherwise (cosine {likeness:.3f})"
        return ""

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-safe; the probe in 16-bit floats."""
        packed = struct.pack(f"<{len(self.probe)}e", *self.probe)
        return {
            "backend": self.backend,
            "model": self.model,
            "dim": self.dim,
            "normalized": self.normalized,
            "query_prefix": self.query_prefix,
            "document_prefix": self.document_prefix,
            "probe": base64.b64encode(packed).decode(),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Fingerprint":
        """The fingerprint of `as_json`.

        Raises:
            ValueError: it is none.
        """
        match kept:
            case {
                "backend": str() as backend,
                "model": str() as model,
                "dim": int() as dim,
                "normalized": bool() as normalized,
                "query_prefix": str() as query_prefix,
                "document_prefix": str() as document_prefix,
                "probe": str() as probe,
            } if _is_sound(backend, model, query_prefix + document_prefix):
                unpacked = _unpacked(probe, min(dim, PROBE_DIMENSIONS))
                return cls(backend, model, dim, normalized, query_prefix, document_prefix, unpacked)
            case _:
                raise ValueError("no fingerprint of an embedder")


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors; 0 when they differ in length or one has none."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return math.fsum(map(mul, one, other)) / lengths if len(one) == len(other) and lengths else 0.0


def _is_sound(backend: str, model: str, prefixes: str) -> bool:
    """Whether settings could have said so: what is kept beside a collection goes into messages."""
    return (
        backend in set(EmbedderBackend)
        and MODEL_NAME.fullmatch(model) is not None
        and len(prefixes) <= 2 * LONGEST_PREFIX
    )


def _unpacked(probe: str, count: int) -> tuple[float, ...]:
    try:
        numbers = struct.unpack(f"<{count}e", base64.b64decode(probe, validate=True))
    except (binascii.Error, struct.error) as error:
        raise ValueError("no probe of an embedder") from error
    if not (any(numbers) and all(map(math.isfinite, numbers))):
        raise ValueError("no probe of an embedder")
    return numbers
