"""The field's words, as enums. Their values are Milvus's own spellings."""

from enum import StrEnum


class Toolset(StrEnum):
    """A group of tools that is switched on and off as one."""

    SEARCH = "search"
    DATA = "data"
    SCHEMA = "schema"
    OPERATIONS = "operations"
    ACCESS = "access"


class Effect(StrEnum):
    """The most that a tool does to what is stored. Annotations and policy both read it."""

    READ = "read"
    CREATE = "create"
    MODIFY = "modify"
    DELETE = "delete"


class Scope(StrEnum):
    """What a token allows its bearer."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Confirm(StrEnum):
    """How a call that destroys is confirmed: by the user, by a second call with a token, by whichever can be had."""

    ALWAYS = "always"
    ELICIT = "elicit"
    TOKEN = "token"  # noqa: S105  # a word, not a password
    NEVER = "never"


class MilvusIdentity(StrEnum):
    """Whose Milvus account a call uses: the one of the settings, or its caller's own."""

    SERVICE = "service"
    CALLER = "caller"


class Transport(StrEnum):
    """How a client reaches the server."""

    STDIO = "stdio"
    SSE = "sse"
    HTTP = "http"


class LogFormat(StrEnum):
    """What a line of the log is."""

    TEXT = "text"
    JSON = "json"


class EmbedderBackend(StrEnum):
    """What computes embeddings of texts on this side of Milvus."""

    OPENAI = "openai"
    FASTEMBED = "fastembed"


class SearchMode(StrEnum):
    """How a text is searched for: by its words, its meaning, both, or a function inside Milvus that embeds it."""

    AUTO = "auto"
    BM25 = "bm25"
    DENSE = "dense"
    HYBRID = "hybrid"
    FUNCTION = "function"


class MetricType(StrEnum):
    """How two vectors are compared. For L2, HAMMING and JACCARD a smaller score is better, else a larger one."""

    COSINE = "COSINE"
    IP = "IP"
    L2 = "L2"
    HAMMING = "HAMMING"
    JACCARD = "JACCARD"
    BM25 = "BM25"


class ConsistencyLevel(StrEnum):
    """How much of what was written a read must see."""

    STRONG = "Strong"
    SESSION = "Session"
    BOUNDED = "Bounded"
    EVENTUALLY = "Eventually"


class FunctionType(StrEnum):
    """What computes a field from other fields inside Milvus."""

    BM25 = "BM25"
    TEXTEMBEDDING = "TEXTEMBEDDING"
    MINHASH = "MINHASH"


class DataType(StrEnum):
    """The type of a field, or of the elements of an ARRAY field."""

    BOOL = "BOOL"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FLOAT = "FLOAT"
    DOUBLE = "DOUBLE"
    VARCHAR = "VARCHAR"
    TEXT = "TEXT"
    JSON = "JSON"
    ARRAY = "ARRAY"
    STRUCT = "STRUCT"
    GEOMETRY = "GEOMETRY"
    TIMESTAMPTZ = "TIMESTAMPTZ"
    FLOAT_VECTOR = "FLOAT_VECTOR"
    FLOAT16_VECTOR = "FLOAT16_VECTOR"
    BFLOAT16_VECTOR = "BFLOAT16_VECTOR"
    INT8_VECTOR = "INT8_VECTOR"
    BINARY_VECTOR = "BINARY_VECTOR"
    SPARSE_FLOAT_VECTOR = "SPARSE_FLOAT_VECTOR"

    @property
    def is_vector(self) -> bool:
        """Whether values of this type are vectors."""
        return self in VECTOR_TYPES

    @property
    def is_integer(self) -> bool:
        """Whether values of this type are whole numbers."""
        return self in INTEGER_TYPES

    @property
    def is_string(self) -> bool:
        """Whether values of this type are text with a maximal length."""
        return self in STRING_TYPES


VECTOR_TYPES = frozenset(each for each in DataType if each.endswith("_VECTOR"))
INTEGER_TYPES = frozenset({DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64})
STRING_TYPES = frozenset({DataType.VARCHAR, DataType.TEXT})
