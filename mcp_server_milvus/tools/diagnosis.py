"""Diagnosis: why a search finds nothing, or the wrong things."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from mcp_server_milvus.app import App
from mcp_server_milvus.diagnosing.findings import Advice, Check, Findings
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import fitting
from mcp_server_milvus.tool import BoundedOutput, Input, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

SparseVector = Annotated[dict[str, float], WithJsonSchema({"type": "object"})]


class DiagnoseSearchInput(Input):
    """A search, by the arguments of `search`, and what it should have found."""

    collection_name: Name
    text: str | None = None
    vector: list[float] | SparseVector | None = None
    id: int | str | None = None
    anns_field: Name | None = None
    limit: int | None = Field(None, ge=1, le=16_384)
    filter: str = ""
    filter_params: dict[str, Any] | None = None
    partition_names: list[Name] | None = None
    radius: float | None = None
    range_filter: float | None = None
    expected_id: int | str | None = None
    db_name: Name | None = None


class DiagnoseSearchOutput(BoundedOutput):
    """What was looked at, in order, and what to try, best first."""

    checks: list[Check]
    next: list[Advice] = Field(description="What to try, best first")


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def diagnose_search(app: App, args: DiagnoseSearchInput) -> DiagnoseSearchOutput:
    """Explains why a search, by the same arguments, finds nothing or the wrong things."""
    from mcp_server_milvus.diagnosing.examination import examine  # a dozen modules, for which no handshake waits

    findings = Findings(args.model_dump(exclude={"expected_id"}, exclude_none=True, exclude_defaults=True))
    await examine(app, args, findings)
    return _output(findings, app.settings.max_result_bytes)


def _output(findings: Findings, max_bytes: int) -> DiagnoseSearchOutput:
    checks, advice = findings.checks, findings.advice
    some = fitting([each.model_dump(mode="json") for each in checks], max_bytes * 2 // 3)
    few = fitting([each.model_dump(mode="json") for each in advice], max_bytes // 3)
    is_cut = some < len(checks) or few < len(advice)
    told = f"{some} of {len(checks)} checks and {few} of {len(advice)} things to try: ask with a shorter filter"
    return DiagnoseSearchOutput(checks=checks[:some], next=advice[:few], applied_limits=[told] if is_cut else None)


TOOLS = (diagnose_search,)
