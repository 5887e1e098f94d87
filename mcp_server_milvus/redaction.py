"""Secrets do not leave: what the settings and the caller keep secret is masked in results, errors and logs.

A secret that no ordinary word looks like is masked wherever it stands. A short or wordlike one, such as the password
`Milvus`, is masked only where it is all of a value, or follows its name, and never in what the database holds.
"""

import base64
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from pydantic import SecretStr

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.text.visible import visible

MASK = "***"
DISTINCTIVE, LONG = 8, 16
"""Characters from which a secret is told from ordinary words: with others than letters in it, and without."""

USERINFO = r"""://(?:[^\s/?#@:"'<>\\]*:[^\s/?#@"'<>\\]+|[^\s/?#@:"'<>\\]{16,})@"""
"""`://user:password@`, or a token in its place. As the patterns below, it is compiled when it is first used: together
they take a hundredth of the start."""

AUTHORIZATION = (
    r"""(?i)(\bbearer\s+|\bauthorization["']?\s*[:=]\s*["']?(?:[a-z]{1,40}\s+)?)(?=[^\s"'\\]{0,99}\d)[^\s"',;\\]{16,}"""
)
"""What is stored looks like a token when it is long and soon has a digit; `Bearer <your token>` is documentation.

Nothing here may look ahead without a bound: in a text made for that, it would look to its end again and again.
"""

AUTHORIZING = ("earer ", "EARER ", "uthorization", "UTHORIZATION")
"""What every text has in it in which that finds something, but for odd cases: looking for it is cheap."""

SPOKEN_AUTHORIZATION = r"""(?i)(\bbearer\s+|\bauthorization["']?\s*[:=]\s*["']?(?:(?:basic|bearer)\s+)?)[^\s"',;\\]+"""
KEYED = (
    r"""(?i)\b((?:token|passw(?:or)?d|secret|(?:api|access|private)[_-]?key|credentials?)(?:["']\s*:\s*["']|=(?!=)["']?))"""
    r"""[^\s"',;)}\]]+"""
)
"""`token=…` and `'password': '…'`, in what programs say."""

LINE_ENDS = str.maketrans({"\n": "\\n", "\r": "\\r"})


@dataclass(frozen=True)
class Secrets:
    """What is never to be seen. `wordlike` are those that could be ordinary words."""

    distinctive: tuple[str, ...] = ()
    wordlike: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings, *others: SecretStr | None) -> "Secrets":
        """Those of the settings, and others, in every form in which they travel."""
        known = set(filter(None, _forms(settings, others)))
        return cls(
            tuple(sorted(filter(_is_distinctive, known), key=len, reverse=True)),
            frozenset(each for each in known if not _is_distinctive(each)),
        )

    def masked(self, text: str) -> str:
        """What a program says, without secrets."""
        if text in self.wordlike:
            return MASK
        text = re.sub(KEYED, rf"\1{MASK}", re.sub(SPOKEN_AUTHORIZATION, rf"\1{MASK}", text))
        return self.masked_content(text)

    def masked_content(self, text: str) -> str:
        """What is stored, without secrets."""
        for secret in self.distinctive:
            text = text.replace(secret, MASK)
        return re.sub(AUTHORIZATION, rf"\1{MASK}", re.sub(USERINFO, f"://{MASK}@", text))

    def may_be_in(self, json: str) -> bool:
        """Whether a text in compact JSON may have something that `masked_content` masks."""
        if "://" in json and "@" in json and re.search(USERINFO, json):
            return True
        if any(word in json for word in AUTHORIZING) and re.search(AUTHORIZATION, json):
            return True
        return any(secret in json or ('"' in secret or "\\" in secret) for secret in self.distinctive)


class MaskingFormatter(logging.Formatter):
    """Log lines without secrets and without characters that steer a terminal; tracebacks too.

    A message is one line. The lines of a traceback are indented, so none of them looks like a message.
    """

    def __init__(self, pattern: str, secrets: Secrets) -> None:
        super().__init__(pattern)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The line. Whoever logs may name more secrets: `extra={"secrets": …}`."""
        return self.masked(super().format(self.shown(record)), record)

    def masked(self, text: str, record: logging.LogRecord) -> str:
        """What is said of the record, as it may be seen."""
        more: Secrets = getattr(record, "secrets", self._secrets)
        return visible(more.masked(self._secrets.masked(text)))

    def shown(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record with its message complete. One whose arguments do not fit its message is told without them."""
        said = logging.makeLogRecord(record.__dict__ | {"args": self._masked_arguments(record.args)})
        try:
            message = said.getMessage()
        except (LookupError, TypeError, ValueError):  # `logging` would print them all, secrets among them
            message = f"{record.msg} (its arguments do not fit)"
        own = {"msg": message, "args": (), "exc_text": None}  # which another formatter has made
        return logging.makeLogRecord(record.__dict__ | own)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name in `logging`
        """The line without what follows it."""
        return super().formatMessage(record).translate(LINE_ENDS)

    def formatException(self, ei: Any) -> str:  # noqa: N802  # the name in `logging`
        """The traceback."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  # the name in `logging`
        """The stack of who has logged."""
        return _indented(super().formatStack(stack_info))

    def _masked_arguments(self, given: Any) -> Any:
        """The arguments, those that are nothing but a secret masked."""
        if not isinstance(given, tuple):
            return given
        arguments = cast("tuple[object, ...]", given)
        return tuple(self._secrets.masked(each) if isinstance(each, str) else each for each in arguments)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.replace("\r", "\\r").split("\n"))


def _forms(settings: Settings, others: Iterable[SecretStr | None]) -> Iterator[str]:
    given = [settings.token, settings.password, settings.embed_api_key, settings.metrics_token]
    given += [each.api_key for each in settings.embedders.values()]
    for secret in [*(each.get_secret_value() for each in (*given, *others) if each), settings.credentials]:
        yield secret
        user, is_pair, password = secret.partition(":")
        if is_pair and user:
            yield password
            yield base64.b64encode(secret.encode()).decode()


def _is_distinctive(secret: str) -> bool:
    return len(secret) >= LONG or (len(secret) >= DISTINCTIVE and not secret.isalpha())
