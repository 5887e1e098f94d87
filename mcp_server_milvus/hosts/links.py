"""Links that install this server with one click.

Cursor: cursor.com/docs/context/mcp/install-links. VS Code: code.visualstudio.com/api/extension-guides/ai/mcp. Pages of
code forges drop links of other schemes than https, so both have an address in the web as well.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote


def cursor_link(name: str, entry: Mapping[str, Any]) -> str:
    """The link that opens Cursor."""
    return f"cursor://anysphere.cursor-deeplink/mcp/install?{_cursor_query(name, entry)}"


def cursor_page(name: str, entry: Mapping[str, Any]) -> str:
    """The page that opens Cursor."""
    return f"https://cursor.com/install-mcp?{_cursor_query(name, entry)}"


def vscode_link(name: str, entry: Mapping[str, Any]) -> str:
    """The link that opens VS Code."""
    return f"vscode:mcp/install?{_quoted(_json({'name': name, **entry}))}"


def vscode_page(name: str, entry: Mapping[str, Any]) -> str:
    """The page that opens VS Code."""
    return f"https://insiders.vscode.dev/redirect/mcp/install?name={_quoted(name)}&config={_quoted(_json(entry))}"


def _cursor_query(name: str, entry: Mapping[str, Any]) -> str:
    return f"name={_quoted(name)}&config={_quoted(base64.b64encode(_json(entry).encode()).decode())}"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _quoted(text: str) -> str:
    return quote(text, safe="")
