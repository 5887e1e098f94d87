"""What a server tells of itself when a client connects: the usual ways, and the rules of the session."""

from collections.abc import Collection

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.vocabulary import Confirm

MOST_BYTES = 1_536
"""A model reads them in every conversation."""

WAYS = (
    (
        {"create_collection", "insert", "search"},
        (
            "To keep text and find it by {how}: create_collection with text_field; insert entities without vectors "
            "(chunk_size splits long texts); search with text. Never make up a vector."
        ),
    ),
    (
        {"create_collection", "insert", "search"},
        "With vectors of your own: create_collection with dimension, insert {{id, vector, …}}, search with vector.",
    ),
    (
        {"list_collections", "describe_collection"},
        "To see what is there: list_collections; describe_collection gives an example entity and an example search.",
    ),
    (
        {"query", "aggregate"},
        "For a question about many entities: aggregate, or query with order_by, instead of reading them.",
    ),
    ({"import_file"}, "For data in files: import_file; a failed one says where to go on."),
)
"""Each with the tools that it takes."""

READING = "To find text by {how}: search with text. Never make up a vector."

ASKED = {
    Confirm.ALWAYS: "What destroys is confirmed first: do what the answer says, and show its preview to the user.",
    Confirm.ELICIT: "What destroys is confirmed by the user, in their client.",
}


def instructions(settings: Settings, tools: Collection[str], *, has_embedder: bool, keeps_undo: bool) -> str:
    """At most `MOST_BYTES` of text for a model that is offered these tools."""
    how = "meaning and words" if has_embedder else "its words"
    ways = [text.format(how=how) for needed, text in WAYS if needed <= set(tools)]
    if "search" in tools and not {"create_collection", "insert"} <= set(tools):
        ways.insert(0, READING.format(how=how))
    lines = [
        "A Milvus vector database.",
        *(f"- {way}" for way in ways),
        *_rules(settings, tools, keeps_undo=keeps_undo),
    ]
    lines.append(
        "Errors are {code, message, hint, retriable}: do what the hint says. "
        "Whole numbers beyond 2^53 travel as strings."
    )
    return "\n".join(lines)


def _rules(settings: Settings, tools: Collection[str], *, keeps_undo: bool) -> list[str]:
    if settings.read_only:
        changing = "This session only reads."
    elif settings.no_drop:
        changing = "Nothing can be deleted or dropped in this session."
    else:
        changing = ASKED.get(settings.confirm, "")
        if keeps_undo and "restore_collection" in tools:
            changing += f" For {settings.undo_hours:g} h list_dropped and restore_collection bring it back."
    bounds = (
        f"A result has at most {settings.max_result_bytes} bytes and says in applied_limits what was cut; "
        f"a call takes at most {settings.max_entities_in} entities."
    )
    return [rule for rule in (changing.strip(), bounds) if rule]
