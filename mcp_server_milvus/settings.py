"""The settings of one server: flags over environment over `.env` over a TOML file over defaults, frozen once read."""

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mcp_server_milvus.vocabulary import Transport

PREFIX = "MILVUS_MCP_"
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


def _checked_folders(folders: str) -> str:
    for folder in filter(None, folders.split(os.pathsep)):
        if not Path(folder).expanduser().is_dir():
            raise ValueError(f"there is no folder {folder}")
    return folders


def _credentials_apart(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the credentials inside the uri as the token, unless they have a token too."""
    parts = _address(str(values.get("uri", "")))
    if parts is None or "@" not in parts.netloc:
        return dict(values)
    credentials, _, address = parts.netloc.rpartition("@")
    return {"token": unquote(credentials)} | dict(values) | {"uri": urlunsplit(parts._replace(netloc=address))}


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
    toolsets: str = Field(
        "search,data,schema",
        description="Tools to offer: toolsets (search, data, schema, operations, access, all), +TOOL, -TOOL",
    )
    files_dir: Annotated[str, AfterValidator(_checked_folders)] = Field(
        "", description="Folder that import_file and export_file may use; several are separated as in PATH; empty: none"
    )
    auto_load: bool = Field(default=True, description="Load a collection that is not loaded when it is read")
    schema_ttl: float = Field(60.0, ge=0, description="Seconds that a collection's schema is trusted")
    max_result_bytes: int = Field(32_768, ge=1_024, description="Bytes that one result may have")
    max_scan: int = Field(1_000_000, ge=1, description="Entities that one aggregate, order_by or exact search may read")
    max_concurrency: int = Field(64, ge=1, description="Calls to Milvus at one time")
    log_level: str = Field("WARNING", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="What is logged to stderr")

    @model_validator(mode="before")
    @classmethod
    def _credentials_leave_the_uri(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _credentials_apart(values)

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


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """The settings in force. Reads the process's environment, `.env` in the working folder, and `config` (TOML).

    Raises:
        SettingsError: an unknown variable `MILVUS_MCP_*` or key, a value that does not fit, or an unreadable file.
    """
    merged: dict[str, Any] = {}
    config = config or _config_from_environment()
    sources: tuple[Mapping[str, Any], ...] = (
        _from_toml(config) if config else {},
        _from_dotenv(),
        _from_environment(EnvSettingsSource(Settings, env_prefix="", case_sensitive=True)),
        flags,
    )
    for given in map(_credentials_apart, sources):
        if "user" in given:
            merged.pop("token", None)  # which would outrank it, though it comes from a weaker source
        merged |= given
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_described(error)) from None


def _config_from_environment() -> Path | None:
    path = os.environ.get(PREFIX + "CONFIG")
    return Path(path) if path else None


def _from_toml(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise SettingsError(f"--config: there is no file {path}")
    try:
        values = TomlConfigSettingsSource(Settings, toml_file=path)()
    except (OSError, ValueError) as error:
        raise SettingsError(f"--config: {path} cannot be read as TOML: {error}") from None
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(f"unknown key {key!r} in {path}{nearest(key, Settings.model_fields)}")
    return values


def _from_dotenv() -> Mapping[str, Any]:
    try:
        source = DotEnvSettingsSource(Settings, env_file=".env", env_prefix="", case_sensitive=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f".env cannot be read: {error}") from None
    return _from_environment(source)


def _from_environment(source: EnvSettingsSource) -> Mapping[str, Any]:
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    values: dict[str, Any] = {
        UNPREFIXED[name]: value for name, value in source.env_vars.items() if name in UNPREFIXED and value
    }
    for name, value in source.env_vars.items():
        if not name.startswith(PREFIX) or name == PREFIX + "CONFIG":
            continue
        if name not in known:
            raise SettingsError(f"unknown variable {name}{nearest(name, known)}")
        if value:
            values[known[name]] = value
    return values


def _described(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    )
