"""What is logged, by this package and by every library: to stderr, by one handler, as text or as lines of JSON."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from mcp_server_milvus.redaction import LINE_ENDS, MaskingFormatter, Secrets
from mcp_server_milvus.request_ids import UNDER_WAY
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.vocabulary import LogFormat

TEXT = "%(levelname)s %(name)s%(in_call)s: %(message)s"

OF_A_CALL = ("tool", "caller", "outcome", "duration_ms")
"""What a line says in fields of its own where who logs names it: `extra={"tool": …}`. Nothing else of a record does."""


def set_up_logs(settings: Settings) -> None:
    """Once in a process. Warnings of Python's are logged, too. A program that has handlers of its own keeps them."""
    stderr = logging.StreamHandler(sys.stderr)
    secrets = Secrets.of(settings)
    stderr.setFormatter(JsonLines(secrets) if settings.log_format is LogFormat.JSON else TextLines(secrets))
    logging.basicConfig(level=settings.log_level, handlers=[stderr])
    logging.captureWarnings(capture=True)


class TextLines(MaskingFormatter):
    """`INFO mcp_server_milvus [0f3a5c7e9b12]: search ok 3 ms`, with the id of the call that is under way, if one is."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__(TEXT, secrets)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name in `logging`
        """The line without what follows it."""
        request_id = UNDER_WAY.get()
        record.in_call = f" [{request_id}]" if request_id else ""
        return super().formatMessage(record)


class JsonLines(MaskingFormatter):
    """One object in ASCII on each line: what steers a terminal or ends a line is in none of its strings."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__("%(message)s", secrets)

    def format(self, record: logging.LogRecord) -> str:
        """The line. Only strings that are masked are in it, and numbers."""
        shown = self.shown(record)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.removesuffix("+00:00") + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": shown.getMessage(),
            "request_id": UNDER_WAY.get(),
            **{name: getattr(record, name, None) for name in OF_A_CALL},
        }
        told = {name: self._shown_value(value, record) for name, value in line.items() if value not in ("", None)}
        if exception := self._exception(record):
            told["exception"] = self.masked(exception, record)
        return json.dumps(told, separators=(",", ":"))

    def _shown_value(self, value: object, record: logging.LogRecord) -> object:
        if isinstance(value, int | float):
            return value
        return self.masked(str(value), record).translate(LINE_ENDS)

    def _exception(self, record: logging.LogRecord) -> str:
        """The traceback in lines, none of which looks like a message."""
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(filter(None, (traceback, stack)))
