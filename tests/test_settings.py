import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from mcp_server_milvus.cli import _flags, _parser
from mcp_server_milvus.settings import FILE_ONLY, Settings, SettingsError, default_data_dir, load_settings
from mcp_server_milvus.vocabulary import Confirm, MilvusIdentity, Transport

SECRET = "s3cr3t-Pa55"

GIVEN: dict[str, tuple[Any, Any]] = {
    "uri": ("http://milvus:19530", "http://milvus:19530"),
    "token": (SECRET, SecretStr(SECRET)),
    "user": ("ann", "ann"),
    "password": (SECRET, SecretStr(SECRET)),
    "db_name": ("prod", "prod"),
    "timeout": (2.5, 2.5),
    "toolsets": ("data,+search", "data,+search"),
    "files_dir": (".", "."),
    "max_scan": (7, 7),
    "read_only": (True, True),
    "no_drop": (True, True),
    "databases": ("prod, team_*", "prod, team_*"),
    "collections": ("docs_*", "docs_*"),
    "mask_fields": ("ssn, users.mail_*", "ssn, users.mail_*"),
    "confirm": ("token", Confirm.TOKEN),
    "confirm_seconds": (60, 60.0),
    "confirm_upserts": (7, 7),
    "undo": (True, True),
    "undo_hours": (0.5, 0.5),
    "undo_collections": (7, 7),
    "undo_megabytes": (7, 7),
    "audit": ("audit.jsonl", "audit.jsonl"),
    "audit_arguments": (True, True),
    "max_calls": (7, 7),
    "max_calls_per_minute": (7, 7),
    "max_entities_in": (7, 7),
    "max_entities_out": (7, 7),
    "max_offset": (7, 7),
    "auth_tokens": ("tokens.toml", Path("tokens.toml")),
    "auth_issuer": ("https://issuer.example", "https://issuer.example"),
    "auth_audience": ("milvus", "milvus"),
    "auth_jwks": ("https://issuer.example/keys", "https://issuer.example/keys"),
    "public_url": ("https://milvus.example/mcp", "https://milvus.example/mcp"),
    "milvus_identity": ("caller", MilvusIdentity.CALLER),
    "allowed_hosts": ("milvus.example:*", "milvus.example:*"),
    "allowed_origins": ("https://milvus.example", "https://milvus.example"),
    "cors": (True, True),
    "max_body_megabytes": (7, 7),
    "max_sessions": (7, 7),
    "session_seconds": (7, 7.0),
    "certfile": ("cert.pem", Path("cert.pem")),
    "keyfile": ("key.pem", Path("key.pem")),
    "metrics_port": (7, 7),
    "metrics_token": ("secret", SecretStr("secret")),
    "build_timeout": (7, 7.0),
    "data_dir": ("some folder", Path("some folder")),
    "transport": ("http", Transport.HTTP),
    "host": ("0.0.0.0", "0.0.0.0"),  # noqa: S104  # a value, not an address to listen on
    "port": (9000, 9000),
    "stateless": (True, True),
    "workers": (3, 3),
    "auto_load": (False, False),
    "schema_ttl": (0, 0.0),
    "max_result_bytes": (4096, 4096),
    "embedder": ("fastembed", "fastembed"),
    "embed_model": ("MiniLM", "MiniLM"),
    "embed_model_dir": ("models", "models"),
    "embed_base_url": ("http://localhost:11434/v1", "http://localhost:11434/v1"),
    "embed_api_key": (SECRET, SecretStr(SECRET)),
    "embed_dim": (256, 256),
    "embed_query_prefix": ("query: ", "query: "),
    "embed_document_prefix": ("passage: ", "passage: "),
    "embed_batch": (8, 8),
    "embed_concurrency": (2, 2),
    "embed_timeout": (5, 5.0),
    "embed_map": ("docs.vector=body", "docs.vector=body"),
    "max_concurrency": (3, 3),
    "log_format": ("json", "json"),
    "log_level": ("DEBUG", "DEBUG"),
}
"""For each setting a value that is not its default: as TOML has it, and as it is read."""
each_setting = pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in FILE_ONLY])


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working folder without `.env`, and none of our variables."""
    for name in [name for name in os.environ if name.startswith("MILVUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def toml(**values: Any) -> Path:
    path = Path("settings.toml")
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()), "utf-8")
    return path


def dotenv(**values: str) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()), "utf-8")


def from_flags(*argv: str) -> Settings:
    return load_settings(_flags(vars(_parser().parse_args(argv))))


@each_setting
def test_each_setting_is_read_from_toml(name: str) -> None:
    value, expected = GIVEN[name]
    assert getattr(load_settings({}, toml(**{name: value})), name) == expected


@each_setting
def test_each_setting_is_read_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, expected = GIVEN[name]
    monkeypatch.setenv(f"MILVUS_MCP_{name.upper()}", text(value))
    assert getattr(load_settings({}), name) == expected


@each_setting
def test_each_setting_is_read_from_dotenv(name: str) -> None:
    value, expected = GIVEN[name]
    dotenv(**{f"MILVUS_MCP_{name.upper()}": f"'{text(value)}'"})
    assert getattr(load_settings({}), name) == expected


@each_setting
def test_each_setting_is_read_from_a_flag(name: str) -> None:
    value, expected = GIVEN[name]
    flag = name.replace("_", "-")
    switch = {True: [f"--{flag}"], False: [f"--no-{flag}"]}
    settings = from_flags(*(switch[value] if isinstance(value, bool) else [f"--{flag}", text(value)]))
    assert getattr(settings, name) == expected
    assert expected != Settings.model_fields[name].get_default(call_default_factory=True)


def test_a_flag_beats_the_environment_that_beats_dotenv_that_beats_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    config = toml(db_name="toml", port=1, timeout=1, max_concurrency=1)
    dotenv(MILVUS_MCP_DB_NAME="dotenv", MILVUS_MCP_PORT="2", MILVUS_MCP_TIMEOUT="2")
    monkeypatch.setenv("MILVUS_MCP_DB_NAME", "environment")
    monkeypatch.setenv("MILVUS_MCP_PORT", "3")
    settings = load_settings({"db_name": "flag"}, config)
    assert (settings.db_name, settings.port, settings.timeout, settings.max_concurrency) == ("flag", 3, 2, 1)


def test_the_toml_file_may_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_MCP_CONFIG", str(toml(port=1234)))
    assert load_settings({}).port == 1234


def test_the_variables_of_other_milvus_programs_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("URI", "http://h:1"), ("TOKEN", SECRET), ("DB", "prod")):
        monkeypatch.setenv(f"MILVUS_{name}", value)
    settings = load_settings({})
    assert (settings.uri, settings.credentials, settings.db_name) == ("http://h:1", SECRET, "prod")


def test_our_own_variable_beats_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_URI", "http://common:1")
    monkeypatch.setenv("MILVUS_MCP_URI", "http://own:1")
    assert load_settings({}).uri == "http://own:1"


def test_other_variables_that_begin_with_milvus_are_no_concern_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_HOME", "/opt/milvus")
    assert load_settings({}) == load_settings({})


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_MCP_PORT", "")
    assert load_settings({}).port == 8000


@pytest.mark.parametrize("old", ["--milvus-uri=http://h:1", "--milvus-token=t", "--milvus-db=prod", "--port=9000"])
def test_the_flags_of_the_earlier_server_are_understood(old: str) -> None:
    new = old.replace("--milvus-db", "--db-name").replace("--milvus-", "--")
    assert from_flags(old) == from_flags(new) != from_flags()


@pytest.mark.parametrize(
    ("old", "transport"),
    [("--sse", Transport.SSE), ("--streamable-http", Transport.HTTP), ("--port=1", Transport.STDIO)],
)
def test_the_transports_of_the_earlier_server_are_understood(old: str, transport: Transport) -> None:
    settings = from_flags(old, "--stateless")
    assert (settings.transport, settings.stateless) == (transport, True)


def test_an_unknown_variable_is_refused_and_the_nearest_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_MCP_PROT", "9000")
    with pytest.raises(SettingsError, match=r"unknown variable MILVUS_MCP_PROT \(did you mean MILVUS_MCP_PORT\?\)"):
        load_settings({})


def test_an_unknown_variable_in_dotenv_is_refused() -> None:
    dotenv(MILVUS_MCP_TOKN=SECRET)
    with pytest.raises(SettingsError, match="MILVUS_MCP_TOKEN") as refused:
        load_settings({})
    assert SECRET not in str(refused.value)


def test_an_unknown_key_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(SettingsError, match=r"unknown key 'db_nam' in settings.toml \(did you mean db_name\?\)"):
        load_settings({}, toml(db_nam="prod"))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r"there is no file nowhere\.toml"):
        load_settings({}, Path("nowhere.toml"))


@pytest.mark.parametrize("content", [b"port = \n", b"port = 1\nhost = \xff"])
def test_a_file_that_is_no_toml_is_named(content: bytes) -> None:
    Path("broken.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=r"broken\.toml cannot be read as TOML"):
        load_settings({}, Path("broken.toml"))


def test_a_dotenv_that_is_no_text_is_said_to_be_unreadable() -> None:
    Path(".env").write_bytes(b"MILVUS_MCP_HOST=\xff\n")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        load_settings({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("uri", wrong) for wrong in ("host:19530", "tcp://host:1", "http://", "http://host:port", "http://h:99999")),
        *(("uri", wrong) for wrong in ("milvus.sqlite", "grpc://host/x.db", "http://[::1")),
        *(("timeout", wrong) for wrong in ("0", "soon", "nan")),
        *(("port", wrong) for wrong in ("65536", "-1", "http")),
        *(("embed_base_url", wrong) for wrong in ("", "h:1", "http://key@h", "http://h/v1?key=1", "http://h/#x")),
        *(("embed_map", wrong) for wrong in ("docs", "vector=body", "docs.vector", "docs.vector=", "docs.=body")),
        *((name, wrong) for name in ("databases", "collections", "mask_fields") for wrong in (",", " , ", " ")),
        *(("embedder", "openi"), ("embed_dim", "-1"), ("embed_query_prefix", "p" * 1_001), ("embed_api_key", "a\nb")),
        *(("transport", "pigeon"), ("log_level", "LOUD"), ("stateless", "perhaps"), ("max_result_bytes", "10")),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_its_setting_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        load_settings({name: value})


def test_embedders_are_those_of_the_flags_and_of_the_tables_in_the_file() -> None:
    Path("settings.toml").write_text(
        """
        embedder = "fastembed"
        embed_model_dir = "models/mini"
        embed_map = "docs.v=body, prod/docs.v=title@code"

        [embedders.code]
        backend = "openai"
        model = "coder"
        base_url = "http://h:1/v1/embeddings/"
        api_key = "k\\n"
        query_prefix = "search: "
        """,
        "utf-8",
    )
    settings = load_settings({}, Path("settings.toml"))
    default, code = settings.all_embedders.values()
    assert list(settings.all_embedders) == ["default", "code"]
    assert (default.backend, default.model_name, default.batch) == ("fastembed", "mini", 64)
    assert (code.backend, code.model_name, code.query_prefix) == ("openai", "coder", "search: ")
    assert (code.base_url, code.api_key.get_secret_value()) == ("http://h:1/v1", "k")
    assert settings.mapped_fields == (
        ("default", "docs", "v", "body", ""),
        ("prod", "docs", "v", "title", "code"),
    )
    assert list(load_settings({"embedder": "none", "embed_map": ""}, Path("settings.toml")).all_embedders) == ["code"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"embedder": "openai"}, "the embedder openai needs a model: set embed_model"),
        ({"embedder": "fastembed", "embed_model": "a\nb"}, "the name of a model has letters, digits"),
        ({"embedder": "openai", "embed_model": "m; curl x | sh"}, "the name of a model has letters, digits"),
        ({"embedder": "fastembed", "embed_model_dir": "/"}, "the name of a model has letters, digits"),
        ({"embed_map": "docs.v=body@code"}, "embed_map: there is no embedder 'code'"),
        ({"embedders": {"code": {"backend": "openai"}}}, "embedders.code: the embedder openai needs a model"),
        ({"embedders": {"code": {"model": "m"}}}, "embedders.code.backend: Field required"),
        (
            {"embedders": {"code": {"backend": "fastembed", "modle": "m"}}},
            "embedders.code.modle: there is no such key (did you mean model?)",
        ),
        (
            {"embedder": "fastembed", "embedders": {"default": {"backend": "fastembed"}}},
            "embedders: the name default belongs to the embedder of the flags",
        ),
        (
            {"embedders": {"code": {"backend": "fastembed"}}, "embed_map": "docs.v=body@cod"},
            "embed_map: there is no embedder 'cod' (did you mean code?)",
        ),
    ],
)
def test_embedders_that_cannot_be_are_refused_in_words(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(wrong)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_the_tables_of_embedders_are_no_flag_and_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="unknown flag --embedders"):
        from_flags("--embedders={}")
    monkeypatch.setenv("MILVUS_MCP_EMBEDDERS", "{}")
    with pytest.raises(
        SettingsError, match=r"unknown variable MILVUS_MCP_EMBEDDERS \(did you mean MILVUS_MCP_EMBEDDER\?\)"
    ):
        load_settings({})


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load_settings({}).port = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_secrets_are_in_no_representation_of_the_settings() -> None:
    code = {"backend": "openai", "model": "m", "api_key": SECRET}
    default = {"embedder": "openai", "embed_model": "m", "embed_api_key": SECRET}
    settings = load_settings(
        {"token": SECRET, "user": "ann", "password": SECRET, "embedders": {"code": code}} | default
    )
    for shown in (repr(settings.all_embedders), str(settings.all_embedders["code"].model_dump())):
        assert SECRET not in shown
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"uri": f"tcp://root:{SECRET}@host:1"},
        {"uri": f"http://root:{SECRET}@host:port"},
        {"uri": f"http://root:{SECRET}\u2100@host:1"},  # urllib's own error repeats it
        {"uri": f"http://root:{SECRET}@[host"},
        {"uri": f"root:{SECRET}@host"},
        {"token": SECRET, "uri": "nonsense"},
        {"password": SECRET, "port": "x"},
        {"token": [SECRET]},
        {"embed_api_key": f"{SECRET}\nX-Header: 1"},
        {"embed_base_url": f"http://{SECRET}@h/v1"},
        {"embed_api_key": SECRET, "embedder": "openai"},
        {"embedders": {"code": {"backend": "openai", "api_key": SECRET}}},
        {"embedders": {"code": {"backend": "openai", "model": "m", "api_key": [SECRET]}}},
    ],
)
def test_secrets_are_in_no_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(wrong)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_secrets_are_not_in_what_pydantic_says_either() -> None:
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"token": [SECRET], "uri": f"tcp://root:{SECRET}@host:1"})
    assert SECRET not in str(refused.value)


def test_credentials_inside_the_uri_become_the_token() -> None:
    settings = load_settings({"uri": "https://root:p%40ss@milvus.example:19530/path"})
    assert settings.uri == "https://milvus.example:19530/path"
    assert settings.credentials == "root:p@ss"


def test_a_token_beside_the_uri_beats_the_credentials_inside_it() -> None:
    settings = load_settings({"uri": "http://root:inside@h:1", "token": "beside"})
    assert (settings.uri, settings.credentials) == ("http://h:1", "beside")


def test_credentials_of_a_flag_beat_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_TOKEN", "environment")
    assert load_settings({}).credentials == "environment"
    assert load_settings({"uri": "http://in:uri@h:1"}).credentials == "in:uri"
    assert load_settings({"user": "ann", "password": "flag"}).credentials == "ann:flag"
    assert load_settings({"token": "flag"}).credentials == "flag"


def test_without_a_uri_the_database_is_embedded_in_the_data_folder() -> None:
    assert load_settings({"data_dir": "data"}).embedded_dir == Path("data").absolute()


def test_a_path_that_ends_in_db_is_an_embedded_database() -> None:
    settings = load_settings({"uri": "some/agents.db"})
    assert settings.embedded_dir == Path("some/agents.db").absolute()
    assert load_settings({"uri": "~/agents.db"}).embedded_dir == Path.home() / "agents.db"


@pytest.mark.parametrize("uri", ["http://h:1", "HTTPS://h:1", "http://[::1]:19530", "https://cluster.example"])
def test_a_server_is_not_embedded(uri: str) -> None:
    settings = load_settings({"uri": uri})
    assert settings.embedded_dir is None
    assert settings.uri == uri.replace("HTTPS", "https")


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="XDG is for the other systems")
def test_the_data_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    assert load_settings({}).data_dir == default_data_dir() == Path("/elsewhere/mcp-server-milvus")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert load_settings({}).data_dir == Path.home() / ".local/share/mcp-server-milvus"
