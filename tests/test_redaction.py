"""Secrets do not leave: not in results, errors and logs, nor in what everybody sees of a process."""

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import SecretStr

from mcp_server_milvus import content, redaction
from mcp_server_milvus.app import open_app
from mcp_server_milvus.content import told_result
from mcp_server_milvus.milvus.results import names_secret
from mcp_server_milvus.policy import Caller
from mcp_server_milvus.redaction import MaskingFormatter, Secrets
from mcp_server_milvus.settings import EmbedderSettings, Settings
from mcp_server_milvus.text import visible
from mcp_server_milvus.titles import ADDRESS_FLAGS, SECRET_FLAGS, apart

pytestmark = pytest.mark.anyio

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

KEY = "sk-0123456789abcdef"
SETTINGS = Settings.model_validate(
    {
        "uri": "https://root:Milvus@milvus.example:19530",
        "embedder": "openai",
        "embed_model": "m",
        "embed_api_key": KEY,
        "metrics_token": "metrics-98765",
        "embedders": {"code": {"backend": "openai", "model": "m", "api_key": "other-key-4711"}},
    }
)
SECRETS = Secrets.of(SETTINGS, SecretStr("alice:wonderland-7"))
AS_GRPC_SENDS_IT = "cm9vdDpNaWx2dXM="
EVERY = [
    *("root:Milvus", AS_GRPC_SENDS_IT, KEY, "metrics-98765", "other-key-4711"),
    *("alice:wonderland-7", "wonderland-7"),
]


@pytest.mark.parametrize("secret", EVERY)
def test_a_secret_is_masked_wherever_it_stands(secret: str) -> None:
    for masked in (SECRETS.masked, SECRETS.masked_content):
        assert masked(f"before{secret}after") == "before***after"
    assert SECRETS.may_be_in(json.dumps({"text": f"before{secret}after"}))


def test_a_password_that_is_a_word_blots_no_words_out() -> None:
    text = "Milvus is a vector database; Milvus2 too"
    assert SECRETS.masked_content("Milvus") == "Milvus"
    assert SECRETS.masked_content(text) == SECRETS.masked(text) == text
    assert SECRETS.masked("Milvus") == "***"
    assert SECRETS.masked("password=Milvus, {'token': 'Milvus'}") == "password=***, {'token': '***'}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("see postgres://app:hunter2@db/x?y", "see postgres://***@db/x?y"),
        ("https://ghp_0123456789abcdef@github.com/a", "https://***@github.com/a"),
        ("amqp://:p%40ss@host", "amqp://***@host"),
        ("Authorization: Bearer abc.def-0123456789", "Authorization: ***"),
        ("curl -H 'authorization: basic dXNlcjpwYXNzd29yZDE='", "curl -H 'authorization: basic ***'"),
        ("bearer 0123456789abcdefgh", "bearer ***"),
    ],
)
def test_credentials_in_a_text_are_masked(text: str, masked: str) -> None:
    assert SECRETS.masked_content(text) in {masked, masked.replace("Authorization: ", "Authorization: Bearer ")}
    assert "***" in SECRETS.masked(text)
    assert SECRETS.may_be_in(json.dumps({"text": text}))


@pytest.mark.parametrize(
    "text",
    [
        "mail me at a@example.com or see https://example.com/@user:name",
        "git clone ssh://git@github.com/a/b",
        "the bearer of bad news; basic internationalization",
        "Authorization: Bearer <token>",
        "http://host:19530/path",
    ],
)
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert SECRETS.masked_content(text) == text


BEGINNINGS = [
    *("authorization=", "authorization:a", "authorization : ", "authorization", "bearer ", "bearer\t", "bearer a"),
    *("://", "://a:", "://a:b", f"://{'a' * 16}", "://@", "token=", "token'", "token' : ", "api_key=", "credentials="),
    *("\u200d", "\u200b", "\ufe0f", "\u2764\ufe0f\u200d", "\u0627\u200c", "\u1820\u180b", "\x0b", "\x7f", "\\u00"),
    *("a", " ", "\t", "'"),
]
"""With which what the regular expressions look for begins."""

PATTERNS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": pattern
    for module in (redaction, visible, content)
    for name, pattern in vars(module).items()
    if isinstance(pattern, re.Pattern)
}


def seconds(work: Callable[[], object]) -> float:
    """Those of this thread, whatever else the machine does."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def is_linear(work: Callable[[str], object], text: str) -> bool:
    """Whether four times the text takes some four times as long: a square would be sixteen."""
    once = seconds(lambda: work(text))
    return any(seconds(lambda: work(text * 4)) < 8 * once + 0.05 for _ in range(3))


@pytest.mark.parametrize("name", PATTERNS)
def test_no_text_makes_a_regular_expression_look_at_it_again_and_again(name: str) -> None:
    for beginning in BEGINNINGS:
        text = beginning * (2**16 // len(beginning))
        assert is_linear(lambda each: PATTERNS[name].sub("", f"{each} x@"), text), beginning


def test_no_stored_text_holds_up_what_is_told() -> None:
    for beginning in BEGINNINGS:
        text = beginning * (2**16 // len(beginning))
        assert is_linear(lambda each: told_result({"text": each}, SECRETS, is_content=True), text), beginning
        assert is_linear(SECRETS.masked, text), beginning


@pytest.mark.parametrize(
    "key", ["api_key", "apiKey", "X-Api-Key", "token", "authToken", "password", "old_password", "AUTH", "credential"]
)
def test_keys_of_secrets_are_known(key: str) -> None:
    assert names_secret(key)


@pytest.mark.parametrize("key", ["author", "tokenizer", "max_tokens", "monkey", "keyboard", "secretary", "passage"])
def test_other_keys_are_not_taken_for_such(key: str) -> None:
    assert not names_secret(key)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What a handler with our formatter writes of a logger."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Kept()
    handler.setFormatter(MaskingFormatter("%(levelname)s %(message)s", SECRETS))
    logging.getLogger("redaction").addHandler(handler)
    logging.getLogger("redaction").propagate = False
    yield lines
    logging.getLogger("redaction").removeHandler(handler)


def test_log_lines_their_arguments_and_tracebacks_are_masked(log: list[str]) -> None:
    logger = logging.getLogger("redaction")
    logger.warning("connecting %s as %s with %s", "https://u:p@host", "Milvus", {"token": "Milvus"})
    logger.warning("%(key)s", {"key": KEY})
    logger.error("of the caller: %s", "short", extra={"secrets": Secrets(wordlike=frozenset({"short"}))})
    try:
        int(f"token={KEY} \x1b[31m")
    except ValueError:
        logger.exception("it failed\u202e")
    text = "\n".join(log)
    assert not [secret for secret in (*EVERY, "Milvus", "u:p", "\x1b", "\u202e") if secret in text]
    assert "Traceback" in text
    assert log[0] == "WARNING connecting https://***@host as *** with {'token': '***'}"


async def test_nothing_shows_its_secrets_when_it_is_shown() -> None:
    caller = Caller(credentials=SecretStr("alice:wonderland-7"))
    async with open_app(SETTINGS) as app:
        shown = repr((SETTINGS, app, app.seen_by(caller), caller, app.clients, EmbedderSettings.model_validate(CODE)))
    assert not [secret for secret in (*EVERY, "Milvus@", "'Milvus'") if secret in shown + str(SETTINGS)]


CODE = {"backend": "openai", "model": "m", "api_key": "other-key-4711"}


def test_every_setting_that_is_secret_is_a_flag_that_is_hidden() -> None:
    secret = {name for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
    assert {f"--{name.replace('_', '-')}" for name in secret} | {"--milvus-token"} == SECRET_FLAGS
    assert {"--uri", "--milvus-uri"} == ADDRESS_FLAGS


def test_flags_with_secrets_are_told_from_the_other_arguments() -> None:
    given = ["call", "--token", "a b", "--uri=http://u:p@h", "--port", "1", "--password=x", "--uri", "http://h", "t"]
    secret, plain = apart([*given, "--", "--token", "no"])
    assert secret == ["--token", "a b", "--uri=http://u:p@h", "--password=x"]
    assert plain == ["call", "--port", "1", "--uri", "http://h", "t", "--", "--token", "no"]
    assert apart(["--token"]) == (["--token"], [])


SHOW = """
import json, pathlib, sys
from mcp_server_milvus.titles import without_secrets_in_title
given = without_secrets_in_title()
heavy = sorted({"pydantic", "anyio", "mcp", "argparse"} & set(sys.modules))
print(json.dumps([given, pathlib.Path("/proc/self/cmdline").read_text(), heavy]))
"""


@linux
def test_the_process_goes_on_under_the_same_id_with_all_its_arguments_and_a_clean_title() -> None:
    flags = ["--token", "T0KEN", "serve", "--uri", "http://root:T0KEN@h:1", "--metrics-token=T0KEN", "--port", "1"]
    with subprocess.Popen([sys.executable, "-c", SHOW, *flags], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        given, title, heavy = json.loads(process.stdout.read())
    assert given == [*flags[:2], *flags[3:6], "serve", "--port", "1"]
    assert "T0KEN" not in title
    assert title.split("\0")[-4:] == ["serve", "--port", "1", ""]
    assert heavy == []


@linux
async def test_no_secret_is_in_the_titles_of_server_and_engine_nor_in_the_engines_environment(tmp_path: Path) -> None:
    data = tmp_path / "data"
    flags = ["--data-dir", str(data), "--token", "T0KEN", "--embed-api-key=T0KEN", "--password", "T0KEN"]
    command = [sys.executable, "-m", "mcp_server_milvus", *flags, "--metrics-token=T0KEN"]
    environment = {"HOME": str(tmp_path), "MILVUS_MCP_USER": "T0KEN"}
    with anyio.fail_after(60):
        async with await anyio.open_process(command, env=environment) as server:
            assert server.stdin
            assert server.stdout
            answers = BufferedByteReceiveStream(server.stdout)
            for request in REQUESTS:
                await server.stdin.send(json.dumps(request).encode() + b"\n")
            first = await answers.receive_until(b"\n", 1 << 20)
            second = await answers.receive_until(b"\n", 1 << 20)
            engine = int((data / ".engine" / "address").read_text().split()[1])
            seen = {
                f"{pid} {name}": Path(f"/proc/{pid}/{name}").read_text()
                for pid, name in ((server.pid, "cmdline"), (engine, "cmdline"), (engine, "environ"))
            }
            await server.stdin.aclose()
            await server.wait()
    assert [name for name, text in seen.items() if "T0KEN" in text] == []
    assert "mcp_server_milvus" in seen[f"{server.pid} cmdline"]
    assert b"T0KEN" not in first + second
    assert b'"collections"' in second


REQUESTS: list[dict[str, Any]] = [
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_collections", "arguments": {}}},
]


def test_a_flag_beats_the_environment_also_when_it_was_hidden(tmp_path: Path) -> None:
    """An uri's credentials in a flag lose to the token in a flag, and win over that of the environment."""
    show = """
import sys
from mcp_server_milvus import cli
cli._tools = lambda settings, as_json: print(settings.credentials) or 0
sys.exit(cli.main())
"""
    for flags, expected in (
        (["--uri", "http://u:p@h:1"], "u:p"),
        (["--uri", "http://u:p@h:1", "--token", "flag"], "flag"),
        (["--user", "me", "--password", "mine"], "me:mine"),
        (["--milvus-token=flag"], "flag"),
        ([], "environment"),
    ):
        result = subprocess.run(
            [sys.executable, "-c", show, *flags, "tools"],
            env={"HOME": str(tmp_path), "MILVUS_MCP_TOKEN": "environment"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == expected
