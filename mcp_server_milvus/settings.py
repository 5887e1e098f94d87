"""The settings of one server: flags over environment over `.env` over a TOML file over defaults, frozen once read."""

import difflib
import ipaddress
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mcp_server_milvus.vocabulary import Confirm, EmbedderBackend, LogFormat, MilvusIdentity, Transport

PREFIX = "MILVUS_MCP_"
FILE_ONLY = frozenset({"embedders"})
"""Settings that only the TOML file can hold."""

OPENAI_URL = "https://api.openai.com/v1"
LOCAL_MODEL = "BAAI/bge-small-en-v1.5"
"""67 MB, 384 dimensions, English: fastembed's own default."""

MODEL_NAME = re.compile(r"[\w@/.][\w@/.:+-]{0,255}")
"""It is kept beside collections, where any client can write: nothing that a shell, or an agent that reads a message,
could take for more than a name."""

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(\*|[0-9]{1,5}))?")
"""As in a Host header."""

LONGEST_PREFIX = 1_000
"""Characters that may be put before a text."""

UNFILLED = re.compile(r"\$\{user_config\.\w+\}")
"""What a host that installs bundles leaves in a variable for which its user gave nothing."""

UNPREFIXED = {"MILVUS_URI": "uri", "MILVUS_TOKEN": "token", "MILVUS_DB": "db_name"}


class SettingsError(ValueError):
    """A setting is unknown or has no usable value; the text names it and the nearest right name, if there is one."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` for the known name that is closest, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def default_data_dir() -> Path:
    """The platform's folder for a user's data, with our name below it."""
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Application Support"
    else:
        parent = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return parent / "mcp-server-milvus"


def _address(uri: str) -> SplitResult | None:
    """The parts of an http(s) uri; nothing for any other. What urllib says of a wrong one has its credentials in it."""
    try:
        parts = urlsplit(uri)
        well_formed = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if well_formed else None


def _checked_uri(uri: str) -> str:
    parts = _address(uri)
    if parts is None and uri and ("://" in uri or not uri.endswith(".db")):
        raise ValueError(
            "must be http://HOST:PORT, https://HOST:PORT, or the path of an embedded database that ends in .db"
        )
    return parts.geturl() if parts else uri


def _checked_log(path: str) -> str:
    folder = Path(path).expanduser().parent
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    return path


def _checked_folders(folders: str) -> str:
    for folder in filter(None, folders.split(os.pathsep)):
        if not Path(folder).expanduser().is_dir():
            raise ValueError(f"there is no folder {folder}")
    return folders


def credentials_apart(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the credentials inside the uri as the token, unless they have a token too."""
    parts = _address(str(values.get("uri", "")))
    if parts is None or "@" not in parts.netloc:
        return dict(values)
    credentials, _, address = parts.netloc.rpartition("@")
    return {"token": unquote(credentials)} | dict(values) | {"uri": urlunsplit(parts._replace(netloc=address))}


def _checked_base_url(url: str) -> str:
    parts = _address(url)
    if parts is None or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be http(s)://HOST[:PORT][/PATH]; a key goes into embed_api_key")
    return url.rstrip("/").removesuffix("/embeddings")


def _checked_public_url(url: str) -> str:
    parts = _address(url)
    if url and (parts is None or "@" in parts.netloc or parts.query or parts.fragment):
        raise ValueError("must be http(s)://HOST[:PORT]/PATH, without credentials")
    return url


def _checked_trusted_url(url: str) -> str:
    """It decides who may come in: nobody in between may answer in its stead."""
    parts = _address(_checked_public_url(url))
    if parts and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("must begin with https://")
    return url


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches the host, as far as its name tells."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def words(text: str) -> tuple[str, ...]:
    """The parts of a setting that is a list with commas."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def _checked_hosts(hosts: str) -> str:
    for host in words(hosts):
        if not HOST.fullmatch(host):
            raise ValueError(f"{host!r} is not HOST, HOST:PORT or HOST:*")
    return hosts


def _checked_origins(origins: str) -> str:
    for origin in words(origins):
        scheme, _, host = origin.partition("://")
        if scheme not in {"http", "https"} or not HOST.fullmatch(host):
            raise ValueError(f"{origin!r} is not http(s)://HOST, with :PORT or :* if it has one")
    return origins


def _checked_patterns(patterns: str) -> str:
    """Patterns that hold something, if only some were meant: none at all stands for everything, or for no field."""
    if patterns and not words(patterns):
        raise ValueError(f"{patterns!r} has no pattern in it")
    return patterns


def _checked_key(key: SecretStr) -> SecretStr:
    """The key without the line end of the file that it comes from: it becomes a header."""
    secret = key.get_secret_value().strip()
    if not (secret.isascii() and secret.isprintable()):
        raise ValueError("has characters that no key has")
    return SecretStr(secret)


Patterns = Annotated[str, AfterValidator(_checked_patterns)]
BaseUrl = Annotated[str, AfterValidator(_checked_base_url)]
ApiKey = Annotated[SecretStr, AfterValidator(_checked_key)]
TrustedUrl = Annotated[str, AfterValidator(_checked_trusted_url)]


class MappedField(NamedTuple):
    """A vector field made elsewhere, in the words of `embed_map`; `db_name` is empty where none was given."""

    db_name: str
    collection_name: str
    vector_field: str
    text_field: str
    embedder: str


def _mapped_fields(embed_map: str) -> Iterator[MappedField]:
    for part in filter(None, map(str.strip, embed_map.split(","))):
        target, _, source = map(str.strip, part.partition("="))
        path, _, vector_field = target.rpartition(".")
        db_name, _, collection_name = path.rpartition("/")
        text_field, _, embedder = source.partition("@")
        if not (collection_name and vector_field and text_field):
            raise ValueError(f"{part!r} is not [DB/]COLLECTION.FIELD=TEXT_FIELD[@EMBEDDER]")
        yield MappedField(db_name, collection_name, vector_field, text_field, embedder)


def _checked_map(embed_map: str) -> str:
    tuple(_mapped_fields(embed_map))
    return embed_map


class EmbedderSettings(BaseModel):
    """One embedder. `timeout` is the seconds of one request; `batch` the texts of one; `dim` 0 for the model's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    backend: EmbedderBackend
    model: str = ""
    model_dir: str = ""
    base_url: BaseUrl = OPENAI_URL
    api_key: ApiKey = SecretStr("")
    dim: int = Field(0, ge=0, le=32_768)
    query_prefix: str = Field("", max_length=LONGEST_PREFIX)
    document_prefix: str = Field("", max_length=LONGEST_PREFIX)
    batch: int = Field(64, ge=1, le=2_048)
    concurrency: int = Field(4, ge=1, le=64)
    timeout: float = Field(30.0, gt=0, le=3600)

    @model_validator(mode="after")
    def _names_its_model(self) -> "EmbedderSettings":
        if self.backend is EmbedderBackend.OPENAI and not self.model:
            raise ValueError("the embedder openai needs a model: set embed_model, or model in [embedders.NAME]")
        if not MODEL_NAME.fullmatch(self.model_name):
            raise ValueError("the name of a model has letters, digits and @ / . : + - _: name it in embed_model")
        return self

    @property
    def model_name(self) -> str:
        """The model, as it is remembered: what was named, or the folder, or the default."""
        return self.model or (Path(self.model_dir).name if self.model_dir else LOCAL_MODEL)


class Settings(BaseSettings):
    """What the operator decided. Secrets are masked in every representation."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    uri: Annotated[str, AfterValidator(_checked_uri)] = Field(
        "",
        description="Milvus to use: http(s)://HOST:PORT, or a path ending in .db; empty: the embedded one in data_dir",
    )
    token: SecretStr = Field(SecretStr(""), description="Token of the Milvus account, or USER:PASSWORD")
    user: str = Field("", description="User of the Milvus account, with password")
    password: SecretStr = Field(SecretStr(""), description="Password of the Milvus account, with user")
    db_name: str = Field("default", description="Database of calls that name none")
    timeout: float = Field(30.0, gt=0, le=3600, description="Seconds that one call may take, connecting included")
    build_timeout: float = Field(
        600.0,
        gt=0,
        description="Seconds that building an index, loading, compacting or reading a whole collection may take",
    )
    data_dir: Path = Field(default_factory=default_data_dir, description="Folder of the embedded database")
    transport: Transport = Field(Transport.STDIO, description="stdio, sse, or http (/mcp and /sse together)")
    host: str = Field("127.0.0.1", description="Address to listen on, for sse and http")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on, for sse and http")
    stateless: bool = Field(default=False, description="Streamable HTTP without sessions, for many workers")
    workers: int = Field(1, ge=1, le=256, description="Processes that serve the port; more than 1 only if stateless")
    toolsets: str = Field(
        "search,data,schema",
        description="Tools to offer: toolsets (search, data, schema, operations, access, all), +TOOL, -TOOL",
    )
    read_only: bool = Field(default=False, description="Offer only tools that read")
    no_drop: bool = Field(default=False, description="Offer no tool that deletes or drops")
    databases: Patterns = Field(
        "", description="Databases that there are for callers, as patterns: prod,team_*; empty: all"
    )
    collections: Patterns = Field("", description="Collections that there are for callers, as patterns; empty: all")
    mask_fields: Patterns = Field("", description="Fields whose values are never shown, as patterns: ssn,users.mail_*")
    confirm: Confirm = Field(
        Confirm.ALWAYS,
        description="How calls that destroy are confirmed: elicit (the user is asked), token (by a second call),"
        " always (the first of these that the client can), never",
    )
    confirm_seconds: float = Field(300.0, gt=0, le=3600, description="Seconds for which a confirmation can be given")
    confirm_upserts: int = Field(
        1_000, ge=0, description="Entities from which an upsert is to be confirmed; 0: none is"
    )
    undo: bool | None = Field(
        None, description="Keep what is dropped, truncated or deleted by filter; default: on the embedded database"
    )
    undo_hours: float = Field(72.0, gt=0, description="Hours that it is kept")
    undo_collections: int = Field(100, ge=1, description="Dropped collections of a database that are kept at one time")
    undo_megabytes: int = Field(2_048, ge=1, description="Megabytes of the data folder that deleted entities may take")
    audit: Annotated[str, AfterValidator(_checked_log)] = Field(
        "", description="File for one line of JSON per call, or stderr; empty: none"
    )
    audit_arguments: bool = Field(default=False, description="Write whole arguments there, not digests of them")
    max_calls: int = Field(256, ge=1, description="Calls of all callers at one time")
    max_calls_per_minute: int = Field(0, ge=0, description="Calls of one caller in a minute; 0: any number")
    max_entities_in: int = Field(1_000_000, ge=1, description="Entities that one call may write, files not counted")
    max_entities_out: int = Field(16_384, ge=1, description="Entities or hits that one call may return")
    max_offset: int = Field(16_384, ge=0, description="Offset that one search may have")
    auth_tokens: Path | None = Field(None, description="TOML file of the tokens that may be used over http")
    auth_issuer: TrustedUrl = Field("", description="URL of the OAuth issuer whose JWTs are accepted over http")
    auth_audience: str = Field("", description="Audience that those have; empty: the URL of this server")
    auth_jwks: TrustedUrl = Field("", description="URL of the issuer's keys; empty: as its metadata says")
    public_url: Annotated[str, AfterValidator(_checked_public_url)] = Field(
        "", description="URL by which clients reach /mcp, where it is not HOST:PORT"
    )
    milvus_identity: MilvusIdentity = Field(
        MilvusIdentity.SERVICE,
        description="Milvus account of calls over http: service (of the settings) or caller (header X-Milvus-Token)",
    )
    allowed_hosts: Annotated[str, AfterValidator(_checked_hosts)] = Field(
        "", description="More Host headers to accept, separated by commas; HOST:* for any port"
    )
    allowed_origins: Annotated[str, AfterValidator(_checked_origins)] = Field(
        "", description="More Origin headers to accept, separated by commas"
    )
    cors: bool = Field(default=False, description="Answer CORS preflights of the allowed origins")
    max_body_megabytes: int = Field(64, ge=1, description="Megabytes that one HTTP request may have")
    max_sessions: int = Field(10_000, ge=1, description="HTTP sessions at one time")
    session_seconds: float = Field(1_800.0, gt=0, description="Seconds after which an idle HTTP session ends")
    certfile: Path | None = Field(None, description="File of the TLS certificate, for https")
    keyfile: Path | None = Field(None, description="File of its key")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of its own for /health and /metrics; 0: the same")
    metrics_token: SecretStr = Field(SecretStr(""), description="Bearer token that /metrics asks for")
    files_dir: Annotated[str, AfterValidator(_checked_folders)] = Field(
        "", description="Folder that import_file and export_file may use; several are separated as in PATH; empty: none"
    )
    auto_load: bool = Field(default=True, description="Load a collection that is not loaded when it is read")
    schema_ttl: float = Field(60.0, ge=0, description="Seconds that a collection's schema is trusted")
    max_result_bytes: int = Field(32_768, ge=1_024, description="Bytes that one result may have")
    max_scan: int = Field(1_000_000, ge=1, description="Entities that one aggregate, order_by or exact search may read")
    embedder: Literal["none", "openai", "fastembed"] = Field(
        "none", description="What embeds texts: openai (any OpenAI-compatible endpoint) or fastembed (in this process)"
    )
    embed_model: str = Field(
        "", description=f"Model of the embedder; empty: {LOCAL_MODEL} of fastembed, or the name of embed_model_dir"
    )
    embed_model_dir: str = Field("", description="Folder with an ONNX model and its tokenizer: nothing is downloaded")
    embed_base_url: BaseUrl = Field(
        OPENAI_URL, description="Endpoint of the embedder openai, up to and without /embeddings"
    )
    embed_api_key: ApiKey = Field(SecretStr(""), description="Key for embed_base_url")
    embed_dim: int = Field(0, ge=0, le=32_768, description="Dimensions to ask the endpoint for; 0: the model's own")
    embed_query_prefix: str = Field(
        "", max_length=LONGEST_PREFIX, description="Put before a text that is searched for, if the model wants one"
    )
    embed_document_prefix: str = Field(
        "", max_length=LONGEST_PREFIX, description="Put before a text that is stored, if the model wants one"
    )
    embed_batch: int = Field(64, ge=1, le=2_048, description="Texts in one request to the endpoint")
    embed_concurrency: int = Field(4, ge=1, le=64, description="Requests to the endpoint at one time")
    embed_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds that one request to the endpoint may take")
    embed_map: Annotated[str, AfterValidator(_checked_map)] = Field(
        "", description="Vector fields made elsewhere by an embedder: [DB/]COLLECTION.FIELD=TEXT_FIELD[@EMBEDDER], …"
    )
    embedders: dict[str, EmbedderSettings] = Field(
        default_factory=dict[str, EmbedderSettings],
        description="More embedders by name, in the TOML file: [embedders.NAME] with backend, model, base_url, …",
    )
    max_concurrency: int = Field(64, ge=1, description="Calls to Milvus at one time")
    log_level: str = Field("WARNING", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="What is logged to stderr")
    log_format: LogFormat = Field(LogFormat.TEXT, description="How: text, or json, one object on each line")

    @model_validator(mode="after")
    def _has_sound_embedders(self) -> "Settings":
        try:
            names = self.all_embedders.keys()
        except ValidationError as error:
            raise ValueError(_described(error)) from None
        if self.embedder != "none" and "default" in self.embedders:
            raise ValueError("embedders: the name default belongs to the embedder of the flags")
        for each in self.mapped_fields:
            if each.embedder and each.embedder not in names:
                raise ValueError(f"embed_map: there is no embedder {each.embedder!r}{nearest(each.embedder, names)}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _credentials_leave_the_uri(cls, values: dict[str, Any]) -> dict[str, Any]:
        return credentials_apart(values)

    @property
    def embedded_dir(self) -> Path | None:
        """The embedded database's folder, or None when a Milvus server is used."""
        if self.uri.startswith(("http://", "https://")):
            return None
        return Path(self.uri or self.data_dir).expanduser().absolute()

    @property
    def file_folders(self) -> tuple[Path, ...]:
        """The folders that import_file and export_file may use."""
        return tuple(Path(each).expanduser().absolute() for each in self.files_dir.split(os.pathsep) if each)

    @property
    def all_embedders(self) -> dict[str, EmbedderSettings]:
        """Every embedder by its name; the one of the flags is named `default` and comes first."""
        if self.embedder == "none":
            return dict(self.embedders)
        flags = {
            name.removeprefix("embed_"): getattr(self, name)
            for name in type(self).model_fields
            if name.startswith("embed_") and name != "embed_map"
        }
        return {"default": EmbedderSettings(backend=EmbedderBackend(self.embedder), **flags), **self.embedders}

    @property
    def mapped_fields(self) -> tuple[MappedField, ...]:
        """What `embed_map` says, each with its database."""
        return tuple(each._replace(db_name=each.db_name or self.db_name) for each in _mapped_fields(self.embed_map))

    @property
    def credentials(self) -> str:
        """What authenticates to Milvus: the token, or `user:password`, or nothing."""
        if self.user and not self.token.get_secret_value():
            return f"{self.user}:{self.password.get_secret_value()}"
        return self.token.get_secret_value()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` merged: nothing is read behind its back."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def is_switch(name: str) -> bool:
    """Whether the flag of a setting stands for itself, without a value."""
    annotation: Any = Settings.model_fields[name].annotation
    return annotation in (bool, bool | None)


class _Source(NamedTuple):
    """What one place sets, and for each setting what it is called there."""

    values: Mapping[str, Any]
    names: Mapping[str, str]


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """The settings in force. Reads the process's environment, `.env` in the working folder, and `config` (TOML).

    Raises:
        SettingsError: an unknown variable `MILVUS_MCP_*` or key, a value that does not fit, or an unreadable file.
    """
    return settings_and_origins(flags, config)[0]


def settings_and_origins(flags: Mapping[str, Any], config: Path | None = None) -> tuple[Settings, dict[str, str]]:
    """The settings in force, and for each that is set somewhere by what: a flag, a variable or a key of a file.

    Raises:
        SettingsError: as `load_settings`.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in _sources(flags, config or _config_from_environment()):
        given = credentials_apart(source.values)
        if "user" in given:
            merged.pop("token", None)  # which would outrank it, though it comes from a weaker source
            origins.pop("token", None)
        merged |= given
        origins |= {name: source.names.get(name) or source.names["uri"] for name in given}
    try:
        return Settings(**merged), origins
    except ValidationError as error:
        raise SettingsError(_described(error)) from None


def _sources(flags: Mapping[str, Any], config: Path | None) -> tuple[_Source, ...]:
    """The weakest first."""
    environment = EnvSettingsSource(Settings, env_prefix="", case_sensitive=True)
    return (
        *((_from_toml(config),) if config else ()),
        _from_dotenv(),
        _from_environment(environment, where=""),
        _Source(flags, {name: "--" + name.replace("_", "-") for name in flags}),
    )


def _config_from_environment() -> Path | None:
    path = os.environ.get(PREFIX + "CONFIG")
    return Path(path) if path else None


def _from_toml(path: Path) -> _Source:
    if not path.is_file():
        raise SettingsError(f"--config: there is no file {path}")
    try:
        values = TomlConfigSettingsSource(Settings, toml_file=path)()
    except (OSError, ValueError) as error:
        raise SettingsError(f"--config: {path} cannot be read as TOML: {error}") from None
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(f"unknown key {key!r} in {path}{nearest(key, Settings.model_fields)}")
    return _Source(values, {key: f"{key} in {path}" for key in values})


def _from_dotenv() -> _Source:
    try:
        source = DotEnvSettingsSource(Settings, env_file=".env", env_prefix="", case_sensitive=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f".env cannot be read: {error}") from None
    return _from_environment(source, where=f" in {Path('.env').absolute()}")


def _from_environment(source: EnvSettingsSource, *, where: str) -> _Source:
    known = {PREFIX + name.upper(): name for name in Settings.model_fields if name not in FILE_ONLY}
    told = {
        UNPREFIXED[name]: name for name, value in source.env_vars.items() if name in UNPREFIXED and _is_given(value)
    }
    for name, value in source.env_vars.items():
        if not name.startswith(PREFIX) or name == PREFIX + "CONFIG":
            continue
        if name not in known:
            raise SettingsError(f"unknown variable {name}{nearest(name, known)}")
        if _is_given(value):
            told[known[name]] = name
    values = {setting: source.env_vars[name] for setting, name in told.items()}
    return _Source(values, {setting: name + where for setting, name in told.items()})


def _is_given(value: str | None) -> bool:
    return bool(value) and not UNFILLED.fullmatch(value or "")


def _described(error: ValidationError) -> str:
    return "; ".join(map(_told, error.errors()))


def _told(problem: ErrorDetails) -> str:
    """`port: Input should be …`. What is wrong between two settings has its own words only."""
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        said = f"there is no such key{nearest(str(problem['loc'][-1]), EmbedderSettings.model_fields)}"
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), said)))
