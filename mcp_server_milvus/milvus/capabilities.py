"""What each kind and version of backend can do: one table, read by validation and by errors.

Sources: Milvus Lite 3.2.2 and Milvus 2.3.5 were run (`tests/`, `tests/live/`). Everything newer than 2.3.5 is from the
release notes of Milvus and from pymilvus's source, and unverified.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mcp_server_milvus.errors import InvalidArgument, NotSupported
from mcp_server_milvus.settings import nearest
from mcp_server_milvus.vocabulary import DataType, FunctionType

Version = tuple[int, int, int]

NEWEST = 999
"""In place of a patch that is not told."""


class Feature(StrEnum):
    """Something that some backends have and others have not, in words that fit `X not supported by …`."""

    NULLABLE = "nullable fields"
    DEFAULT_VALUE = "default values"
    CLUSTERING_KEY = "clustering keys"
    STRUCT_ARRAY = "arrays of structs"
    ANALYZER = "text analyzers"
    TEXT_MATCH = "text_match"
    GROUP_BY = "grouping hits by a field"
    GROUP_SIZE = "group_size"
    NUM_SHARDS = "more than one shard"
    HYBRID_SEARCH = "hybrid search"
    FUNCTION_RERANKER = "a function as the ranker"
    RUN_ANALYZER = "running an analyzer"
    REPLICAS = "more than one replica"
    LOAD_RESOURCE_GROUPS = "loading into resource groups"
    LOAD_FIELDS = "loading chosen fields"
    LOAD_PARTITIONS = "loading single partitions"
    TRUNCATE = "truncate_collection"
    ALTER_DESCRIPTION = "changing the description"
    DROP_PROPERTY = "dropping a property"
    ALTER_FIELD = "changing a field"
    ADD_FIELD = "adding a field"
    DROP_FIELD = "dropping a field"
    ALTER_FUNCTIONS = "adding and dropping functions"
    FUNCTION_FIELDS = "adding and dropping a function together with its field"
    ALTER_INDEX = "changing the properties of an index"
    DATABASE_PROPERTIES = "properties of a database"
    SEGMENTS = "listing segments"
    COMPACTION = "compaction on demand"
    L0_COMPACTION = "compaction of deletions alone"
    TARGET_SIZE = "compaction to a target size"
    REPLICA_PLACEMENT = "describing and moving replicas"
    RESOURCE_GROUPS = "resource groups"
    RESOURCE_GROUP_CONFIG = "configurations of resource groups"
    SNAPSHOTS = "snapshots"
    ACCOUNTS = "users and roles"
    ACCOUNT_DESCRIPTIONS = "descriptions of users and roles"
    PRIVILEGE_GROUPS = "privilege groups"
    FORCE_DROP = "dropping a role that has privileges"
    QUERY_AGGREGATION = "aggregates of a query"
    QUERY_ORDER = "the order of a query"
    PARTS_OF_TEXTS = "ends and parts of texts in a filter"


MAX_WINDOW = 16_384
"""Largest `offset + limit` of one search. Source: Milvus `quotaAndLimits`. Milvus Lite has no bound of its own, and
allocates 16 bytes for each: an offset of a thousand million ended the machine's memory."""

TYPE_SINCE: dict[DataType, Version] = {
    DataType.FLOAT16_VECTOR: (2, 4, 0),  # 2.3.5 takes them, and computes distances from the wrong bytes
    DataType.BFLOAT16_VECTOR: (2, 4, 0),
    DataType.SPARSE_FLOAT_VECTOR: (2, 4, 0),
    DataType.INT8_VECTOR: (2, 6, 0),
    DataType.GEOMETRY: (2, 6, 4),
    DataType.TIMESTAMPTZ: (2, 6, 6),
    DataType.STRUCT: (2, 6, 4),
    DataType.TEXT: (3, 0, 0),
}
"""First Milvus version with each type; types that are not named are in all of them."""

FUNCTION_SINCE: dict[FunctionType, Version] = {
    FunctionType.BM25: (2, 5, 0),
    FunctionType.TEXTEMBEDDING: (2, 6, 0),
    FunctionType.MINHASH: (3, 0, 0),
}


@dataclass(frozen=True)
class Support:
    """Who has a feature: Milvus from a version on (None: no release yet known), Milvus Lite or not.

    `instead` is the nearest thing that works on a backend without it, as a sentence for an agent; `on_lite` is that of
    Milvus Lite where it is another.
    """

    since: Version | None
    lite: bool
    instead: str = ""
    on_lite: str = ""


NO_ACCOUNTS = "Milvus Lite has no accounts: restrict this server by its settings, or use a Milvus server"
ONE_PROCESS = "Milvus Lite is one process: nothing to divide"
COMPACTS_BY_ITSELF = "Milvus Lite compacts by itself after each flush"

FEATURES: dict[Feature, Support] = {
    Feature.NULLABLE: Support((2, 5, 0), lite=True, instead="leave it out"),
    Feature.PARTS_OF_TEXTS: Support((2, 4, 0), lite=True, instead='compare by the beginning: like "ab%"'),
    Feature.DEFAULT_VALUE: Support((2, 5, 0), lite=True, instead="leave it out"),
    Feature.CLUSTERING_KEY: Support((2, 4, 7), lite=False, instead="leave it out"),
    Feature.STRUCT_ARRAY: Support((2, 6, 4), lite=False, instead="keep the objects in a JSON field"),
    Feature.ANALYZER: Support((2, 5, 0), lite=True, instead="leave it out"),
    Feature.TEXT_MATCH: Support((2, 5, 0), lite=True, instead="leave it out"),
    Feature.GROUP_BY: Support((2, 4, 0), lite=True, instead="search with a larger limit and group the hits"),
    Feature.GROUP_SIZE: Support((2, 5, 0), lite=True, instead="leave it out"),
    Feature.NUM_SHARDS: Support((2, 0, 0), lite=False, instead="leave num_shards out"),
    Feature.HYBRID_SEARCH: Support((2, 4, 0), lite=True, instead="hybrid_search fuses the legs itself"),
    Feature.FUNCTION_RERANKER: Support((2, 6, 0), lite=True, instead="ranker: rrf or weighted"),
    Feature.RUN_ANALYZER: Support(
        (2, 5, 11), lite=False, instead='from Milvus 2.5.0 on, a filter text_match(field, "words") shows what matches'
    ),
    Feature.REPLICAS: Support((2, 1, 0), lite=False, instead="leave replica_number out"),
    Feature.LOAD_RESOURCE_GROUPS: Support((2, 2, 3), lite=False, instead="leave resource_groups out"),
    Feature.LOAD_FIELDS: Support((2, 5, 0), lite=False, instead="leave it out: every field is loaded"),
    Feature.LOAD_PARTITIONS: Support(
        (2, 0, 0), lite=False, instead="load_collection and release_collection act on all partitions"
    ),
    Feature.TRUNCATE: Support(
        (2, 6, 11), lite=True, instead="delete with a filter that every entity matches, e.g. id >= 0 or id < 0"
    ),
    Feature.ALTER_DESCRIPTION: Support((2, 5, 12), lite=True, instead="only create_collection can set one"),
    Feature.DROP_PROPERTY: Support((2, 5, 0), lite=True, instead="give it another value"),
    Feature.ALTER_FIELD: Support(
        (2, 5, 0),
        lite=False,
        instead="create another collection with the field as wanted, and insert the entities there",
    ),
    Feature.ADD_FIELD: Support(
        (2, 6, 0), lite=False, instead="a collection with enable_dynamic_field keeps values of fields that it has not"
    ),
    Feature.DROP_FIELD: Support(
        (3, 0, 0), lite=False, instead="leave it unused, or create another collection without it"
    ),
    Feature.ALTER_FUNCTIONS: Support(
        (2, 6, 8), lite=False, instead="create another collection with the functions as wanted"
    ),
    Feature.FUNCTION_FIELDS: Support((3, 0, 0), lite=False, instead="name an existing field as its output"),
    Feature.ALTER_INDEX: Support((2, 4, 0), lite=False, instead="build_index with replace: true"),
    Feature.DATABASE_PROPERTIES: Support((2, 4, 6), lite=True, instead="leave properties out"),
    Feature.SEGMENTS: Support((2, 0, 0), lite=False, instead="collection_stats counts the entities"),
    Feature.COMPACTION: Support((2, 0, 0), lite=False, instead=COMPACTS_BY_ITSELF),
    Feature.L0_COMPACTION: Support((2, 6, 3), lite=False, instead="compact without is_l0"),
    Feature.TARGET_SIZE: Support(
        (3, 0, 0), lite=False, instead="compact without target_size merges small segments", on_lite=COMPACTS_BY_ITSELF
    ),
    Feature.REPLICA_PLACEMENT: Support(
        (2, 1, 0), lite=False, instead="Milvus Lite keeps one copy: collection_stats says whether it is loaded"
    ),
    Feature.RESOURCE_GROUPS: Support((2, 2, 3), lite=False, instead=ONE_PROCESS),
    Feature.RESOURCE_GROUP_CONFIG: Support(
        (2, 4, 1), lite=False, instead="create_resource_group without config", on_lite=ONE_PROCESS
    ),
    Feature.SNAPSHOTS: Support((3, 0, 0), lite=False, instead="export_file writes the entities to a file"),
    Feature.ACCOUNTS: Support((2, 2, 0), lite=False, instead=NO_ACCOUNTS),
    Feature.ACCOUNT_DESCRIPTIONS: Support((3, 0, 0), lite=False, instead="leave description out"),
    Feature.PRIVILEGE_GROUPS: Support(
        (2, 4, 18), lite=False, instead="grant_privilege grants privileges one by one", on_lite=NO_ACCOUNTS
    ),
    Feature.FORCE_DROP: Support(
        (2, 5, 0), lite=False, instead="describe_role shows its privileges: revoke_privilege each, then drop the role"
    ),
    Feature.QUERY_AGGREGATION: Support((3, 0, 0), lite=False, instead="they are computed here"),
    Feature.QUERY_ORDER: Support((3, 0, 0), lite=False, instead="entities are ordered here"),
}
"""Backends and features. Milvus Lite 3.2.2 and Milvus 2.3.5 were run; versions after 2.3.5 are unverified."""

LITE_TYPES = frozenset(
    {
        DataType.BOOL,
        DataType.INT8,
        DataType.INT16,
        DataType.INT32,
        DataType.INT64,
        DataType.FLOAT,
        DataType.DOUBLE,
        DataType.VARCHAR,
        DataType.JSON,
        DataType.ARRAY,
        DataType.FLOAT_VECTOR,
        DataType.SPARSE_FLOAT_VECTOR,
    }
)
LITE_FUNCTIONS = frozenset({FunctionType.BM25})
LITE_DENSE_INDEXES = ("AUTOINDEX", "FLAT", "BRUTE_FORCE", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8")
LITE_SPARSE_INDEXES = ("AUTOINDEX", "SPARSE_INVERTED_INDEX")
LITE_SCALAR_INDEXES = ("AUTOINDEX", "INVERTED")
LITE_ANALYZERS = ("standard", "jieba")
INDEX_DEFAULTS: dict[str, dict[str, int]] = {
    "HNSW": {"M": 16, "efConstruction": 200},
    "IVF_FLAT": {"nlist": 128},
    "IVF_SQ8": {"nlist": 128},
    "BIN_IVF_FLAT": {"nlist": 128},
}
"""Source: the defaults in Milvus's documentation of its indexes, from 2.4 on."""

LITE_PARAM_RANGES = {
    "M": (2, 2_048),
    "efConstruction": (1, 65_536),
    "nlist": (1, 65_536),
    "ef": (1, 65_536),
    "nprobe": (1, 65_536),
}
"""Milvus's own ranges, where it has one. Milvus Lite takes any value, and fails for lack of memory when it needs it."""


LITE_OTHER_PARAMS = (
    *("metric_type", "radius", "range_filter", "bm25_k1", "bm25_b", "inverted_index_algo"),
    *("drop_ratio_build", "drop_ratio_search", "json_path", "json_cast_type"),
)
"""What else it reads or checks by itself. Any other name it would ignore without a word."""


@dataclass(frozen=True)
class Backend:
    """The connected backend: Milvus Lite, or a Milvus server of some version."""

    version: Version
    is_lite: bool

    def __str__(self) -> str:
        return f"{'Milvus Lite' if self.is_lite else 'Milvus'} {shown(self.version)}"

    @classmethod
    def from_version_text(cls, text: str) -> "Backend":
        """From what `GetVersion` answers: `milvus_lite-3.2.2`, `v2.3.5-lite` (a server, despite its name), `2.6.0`.

        `2.6-20260404-31fb3fc` is the newest of its line, and what tells no version, as Zilliz Cloud does at times, is
        the newest of 2.6: what only later servers have is refused there, not sent to one that may not know it.
        """
        found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        major, minor, patch = found.groups() if found else ("2", "6", None)
        return cls((int(major), int(minor), int(patch or NEWEST)), is_lite=text.startswith("milvus_lite"))

    @property
    def types(self) -> tuple[DataType, ...]:
        """The types that a field can have here."""
        return tuple(
            kind
            for kind in DataType
            if (kind in LITE_TYPES if self.is_lite else self.version >= TYPE_SINCE.get(kind, (0, 0, 0)))
        )

    @property
    def functions(self) -> tuple[FunctionType, ...]:
        """The functions that a collection can have here."""
        return tuple(
            kind
            for kind in FunctionType
            if (kind in LITE_FUNCTIONS if self.is_lite else self.version >= FUNCTION_SINCE[kind])
        )

    def index_defaults(self, index_type: str) -> Mapping[str, int]:
        """The parameters that an index of this type must have and that a server of this version does not add itself."""
        return {} if self.is_lite or self.version >= (2, 4, 0) else INDEX_DEFAULTS.get(index_type, {})

    @property
    def json_values(self) -> str:
        """What a value of a JSON field must begin with, as JSON; nothing where it may be anything."""
        if self.is_lite:
            return "{["
        return "{" if self.version < (2, 4, 0) else ""

    @property
    def lists_aliases_of_default_only(self) -> bool:
        """Whether ListAliases looks into the default database, whatever database the call is about."""
        return not self.is_lite and self.version < (2, 4, 0)

    @property
    def keeps_duplicate_keys(self) -> bool:
        """Whether inserting an existing primary key adds a second entity instead of replacing the first."""
        return not self.is_lite

    @property
    def concurrent_writes(self) -> int:
        """How many write requests of one call may be under way at once."""
        return 1 if self.is_lite else 4

    def has(self, feature: Feature) -> bool:
        """Whether the backend has the feature."""
        support = FEATURES[feature]
        return support.lite if self.is_lite else support.since is not None and self.version >= support.since

    def require(self, feature: Feature, *, where: str) -> None:
        """Nothing, if the backend has the feature.

        Raises:
            NotSupported: it has not; `where` is what asked for it. The hint is the nearest thing that works.
        """
        if not self.has(feature):
            support = FEATURES[feature]
            since = "" if self.is_lite or not support.since else f" (needs Milvus {shown(support.since)} or newer)"
            raise NotSupported(
                f"{where}: {feature} not supported by {self}{since}",
                hint=(self.is_lite and support.on_lite) or support.instead,
            )

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Nothing, if the parameters of an index or a search are known and in range, or the server checks them itself.

        Raises:
            InvalidArgument: one is not; the message gives its range, or names those that there are.
        """
        known = [*LITE_PARAM_RANGES, *LITE_OTHER_PARAMS]
        for name in (name for name in params if self.is_lite and name not in known):
            raise InvalidArgument(
                f"params: {self} has no parameter {name[:40]!r}{nearest(name, known)}; it has: {', '.join(known)}"
            )
        for name, (least, most) in LITE_PARAM_RANGES.items() if self.is_lite else ():
            value = params.get(name, least)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InvalidArgument(f"params: {name} is {value!r}; it is a whole number from {least} to {most}")

    def index_types(self, kind: DataType) -> tuple[str, ...] | None:
        """The index types that work on a field of this type, or None where the server itself checks them well.

        Milvus Lite stores any index type and then fails to load the collection, so it is held to a list.
        """
        if not self.is_lite:
            return None
        if kind is DataType.SPARSE_FLOAT_VECTOR:
            return LITE_SPARSE_INDEXES
        return LITE_DENSE_INDEXES if kind.is_vector else LITE_SCALAR_INDEXES


def shown(version: Version) -> str:
    """The version as people write it."""
    return ".".join(str(part) for part in version if part != NEWEST)
