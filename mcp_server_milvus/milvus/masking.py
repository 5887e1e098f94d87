"""Fields whose values are never shown, and never decide anything that is shown: a filter would spell them out."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# protobuf has no types.

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from mcp_server_milvus.errors import Denied
from mcp_server_milvus.milvus.filters import names_in, understood
from mcp_server_milvus.milvus.functions import params_of, rankers
from mcp_server_milvus.reach import IN_TRASH

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.guard import Guard

READS = frozenset({"Query", "Search", "HybridSearch"})
DYNAMIC = "$meta"
RENAMED = {"RenameCollection": ("oldName", "newName"), "RestoreSnapshot": ("collection_name", "target_collection_name")}
FIELD_PARAMS = frozenset({"anns_field", "group_by_field", "group_by_fields", "order_by_fields", "order_by"})
"""Parameters of a read that name fields."""


class Mask:
    """What is masked of the collection that one request reads."""

    def __init__(self, guard: "Guard") -> None:
        self._guard = guard
        self._collection = ""

    @property
    def is_on(self) -> bool:
        """Whether anything is masked at all."""
        return bool(self._guard.reach.masked_fields)

    async def judge(self, rpc: str, request: Any) -> None:
        """Nothing, if what a read answers depends on no masked field. It then asks for none.

        Raises:
            Denied: it depends on one, or the primary key is masked.
        """
        if self.is_on and rpc in RENAMED:
            old, new = (getattr(request, name) for name in RENAMED[rpc])
            self._require_as_masked(old, new)
        if not self.is_on or (rpc not in READS and rpc != "Delete"):
            return
        described = await self._guard.described(request.collection_name)
        if described is None:
            return  # Milvus will say so
        self._collection = described.schema.name
        self._require_key(described.schema)
        self._require_unmasked(_filtered(request), "filter")
        if rpc in READS:
            self._require_unmasked(_named_by_params(request, described.schema), "params")
            self._require_unmasked(_named_by_rankers(request), "function")
            self._ask_for_others(request, described.schema)

    async def applied(self, rpc: str, request: Any, answer: Any) -> Any:
        """The answer without the masked fields."""
        if self.is_on and rpc in READS and self._collection:
            del request
            _strip(answer if rpc == "Query" else answer.results, self._masks)
        return answer

    def _require_as_masked(self, old: str, new: str) -> None:
        """Nothing, if what is masked by a collection's name is masked by the new one too, or nobody sees that."""
        reach = self._guard.reach
        if not (reach.in_trash and IN_TRASH.fullmatch(new)) and reach.would_unmask(old, new):
            raise Denied(
                f"fields of {old} are masked by its name, and might not be in {new}",
                hint="its operator masks the fields under both names",
            )

    def _masks(self, name: str) -> bool:
        return self._guard.reach.masks(self._collection, name)

    def _require_key(self, schema: Any) -> None:
        for each in schema.fields:
            if each.is_primary_key and self._masks(each.name):
                raise Denied(
                    f"{each.name} is the primary key of {self._collection}, and mask_fields masks it",
                    hint="a collection without a visible key cannot be read: its operator masks other fields",
                )

    def _require_unmasked(self, names: Iterable[str], where: str) -> None:
        if masked := sorted(filter(self._masks, names)):
            raise Denied(f"{where}: {masked[0]} is masked: nothing can be found by it", hint="leave it out")

    def _ask_for_others(self, request: Any, schema: Any) -> None:
        """Reads without names get every field, so they name those that are not masked."""
        asked = list(request.output_fields)
        self._require_unmasked((word for name in asked for word in re.findall(r"\w+", name)), "output_fields")
        if not asked or "*" in asked:
            others = [each.name for each in schema.fields if not self._masks(each.name)]
            request.output_fields[:] = list(dict.fromkeys([*(name for name in asked if name != "*"), *others]))


def _filtered(request: Any) -> set[str]:
    """Every name in the filters of a request."""
    texts = [getattr(request, "expr", ""), getattr(request, "dsl", "")]
    texts += [each.dsl for each in (*getattr(request, "requests", ()), *getattr(request, "sub_reqs", ()))]
    return {name for text in texts for name in names_in(understood(text))}


def _named_by_params(request: Any, schema: Any) -> set[str]:
    """Every field that the parameters of a read name, and the texts from which Milvus makes such a field."""
    named = {word for key, value in _params(request) if key in FIELD_PARAMS for word in re.findall(r"[\w$]+", value)}
    made = {
        name
        for function in schema.functions
        if named & set(function.output_field_names)
        for name in function.input_field_names
    }
    return named | made


def _params(request: Any) -> Iterator[tuple[str, str]]:
    """The parameters of a read and of its parts, also those inside of others."""
    lists = [getattr(request, name, ()) for name in ("search_params", "query_params", "rank_params")]
    lists += [each.search_params for each in (*getattr(request, "requests", ()), *getattr(request, "sub_reqs", ()))]
    for pair in chain.from_iterable(lists):
        yield pair.key, pair.value
        if pair.key == "params":
            inside: dict[str, Any] = json.loads(pair.value or "{}")
            yield from ((key, json.dumps(value, ensure_ascii=False)) for key, value in inside.items())


def _named_by_rankers(request: Any) -> set[str]:
    """Every field by which rankers rank: an entity's place would tell what is in it."""
    names: set[str] = set()
    for function in rankers(request):
        names.update(function.input_field_names)
        for key, value in params_of(function):
            if key == "filter":
                names |= names_in(understood(value))
            elif key not in {"reranker", "function"}:
                names.update(re.findall(r"\w+", value))
    return names


def _strip(answer: Any, masks: Any) -> None:
    """Takes masked fields, and masked keys of the dynamic field, out of the columns of an answer."""
    kept = [each for each in answer.fields_data if not masks(each.field_name)]
    for each in kept:
        if each.is_dynamic or each.field_name == DYNAMIC:
            texts = each.scalars.json_data.data
            texts[:] = [_without(text, masks) for text in texts]
    if len(kept) < len(answer.fields_data):
        copies = [type(each).FromString(each.SerializeToString()) for each in kept]
        del answer.fields_data[:]
        answer.fields_data.extend(copies)
    shown = [name for name in answer.output_fields if not masks(name)]
    answer.output_fields[:] = shown


def _without(text: bytes, masks: Any) -> bytes:
    value = json.loads(text or b"{}")
    if not isinstance(value, dict):
        return text
    given = cast("dict[str, Any]", value)
    kept = {name: each for name, each in given.items() if not masks(name)}
    return text if len(kept) == len(given) else json.dumps(kept, ensure_ascii=False).encode()
