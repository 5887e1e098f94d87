"""The words of a text as the field's analyzer makes them, and which of them no entity has."""

from dataclasses import replace

from mcp_server_milvus.diagnosing.findings import Findings, State, shown_value
from mcp_server_milvus.diagnosing.hits import unbounded
from mcp_server_milvus.diagnosing.reading import Reading
from mcp_server_milvus.diagnosing.sought import Leg
from mcp_server_milvus.errors import NotSupported
from mcp_server_milvus.milvus.analysis import words_of_field
from mcp_server_milvus.milvus.searching import Search

MOST_WORDS = 12
"""Words that are looked for one by one."""


async def check_words(findings: Findings, reading: Reading, search: Search, leg: Leg) -> None:
    """Which words of the text occur, whatever the filter."""
    text_field = leg.text_field
    field = reading.schema.require(text_field)
    try:
        (made,) = await words_of_field(reading.client, [search.target.data], reading.collection_name, field)
    except NotSupported:
        return
    words = list(dict.fromkeys(made))
    if not words:
        told = f"the analyzer of {text_field} makes no words of the text"
        findings.tell("words", State.PROBLEM, told)
        arguments = {"texts": [search.target.data[:100]], "field_name": text_field}
        findings.advise(State.PROBLEM, "see what words become", "run_analyzer", **arguments)
        return
    absent = [word for word in words[:MOST_WORDS] if not await _occurs(search, word)]
    if not absent:
        findings.tell("words")
        return
    told = f"of {', '.join(map(shown_value, words[:MOST_WORDS]))} no entity has {', '.join(map(shown_value, absent))}"
    findings.tell("words", State.PROBLEM if len(absent) == len(words) else State.WARNING, told)
    findings.advise(State.WARNING, "use words as the texts spell them: an analyzer may neither stem nor correct")


async def _occurs(search: Search, word: str) -> bool:
    everything = replace(search.source, matching="")
    target = replace(unbounded(search).target, data=word)
    return bool(await replace(search, source=everything, target=target).keys_and_scores("", 1))
