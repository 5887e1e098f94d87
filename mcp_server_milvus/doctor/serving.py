"""What `serve` would refuse to start with: tools, the port, who may come in, TLS."""

import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio.to_thread

from mcp_server_milvus.auth.verifier import open_verifier
from mcp_server_milvus.commands import require_one_client, require_reachable
from mcp_server_milvus.doctor.finding import Examined, Finding, failure, ok, warning
from mcp_server_milvus.policy import Policy
from mcp_server_milvus.settings import Settings, SettingsError
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Transport

SOON = timedelta(days=30)
"""Before its certificate expires, a server has a warning."""

SEE_HELP = "mcp-server-milvus --help describes each setting"


async def check_tools(examined: Examined) -> Finding:
    """Which tools are offered, and whether those without a db_name can reach anything."""
    settings = examined.settings
    try:
        offered = Policy(settings).offered(TOOLS)
        require_reachable(settings)
        if settings.transport is Transport.STDIO:
            require_one_client(settings)
    except SettingsError as error:
        return failure("tools", str(error), SEE_HELP)
    if not offered:
        return warning("tools", "none is offered", "choose some with --toolsets; mcp-server-milvus tools lists them")
    return ok("tools", f"{len(offered)} of {len(TOOLS)} are offered, over {settings.transport}")


async def check_port(examined: Examined) -> Finding | None:
    """Whether the port can be listened on."""
    settings = examined.settings
    if settings.transport is Transport.STDIO:
        return None
    from mcp_server_milvus.transports.listening import listener

    try:
        door = await anyio.to_thread.run_sync(listener, settings.host, settings.port, abandon_on_cancel=True)
    except OSError as error:
        remedy = "choose another with --port or --host; if this server runs already, that is why"
        return failure("port", error.strerror or str(error), remedy)
    door.close()
    return ok("port", f"{settings.host}:{settings.port} is free")


async def check_access(examined: Examined) -> Finding | None:
    """Whether only who has shown who they are, or is on this machine, would be served."""
    settings = examined.settings
    if settings.transport is Transport.STDIO:
        return None
    from mcp_server_milvus.transports.security import require_guarded

    try:
        async with open_verifier(settings) as verifier:
            require_guarded(settings, authenticated=verifier is not None)
    except SettingsError as error:
        return failure("access", str(error), SEE_HELP)
    if settings.auth_tokens and _is_read_by_others(settings.auth_tokens.expanduser()):
        said = f"others than its owner may read {settings.auth_tokens}"
        return warning("access", said, f"chmod 600 {settings.auth_tokens}")
    return ok("access", "by token" if verifier else "from this machine only")


def _is_read_by_others(path: Path) -> bool:
    return sys.platform != "win32" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


async def check_certificate(examined: Examined) -> Finding | None:
    """Whether the TLS certificate and its key can be used, and for how long."""
    settings = examined.settings
    if settings.transport is Transport.STDIO or (settings.certfile is None and settings.keyfile is None):
        return None
    return await anyio.to_thread.run_sync(_certificate, settings, abandon_on_cancel=True)


def _certificate(settings: Settings) -> Finding | None:
    from cryptography import x509

    from mcp_server_milvus.transports.security import tls

    try:
        tls(settings)
    except SettingsError as error:
        return failure("certificate", str(error), "name the files with --certfile and --keyfile")
    if settings.certfile is None:
        return None
    ends = x509.load_pem_x509_certificate(settings.certfile.expanduser().read_bytes()).not_valid_after_utc
    said = f"{settings.certfile} is valid until {ends:%Y-%m-%d}"
    now = datetime.now(UTC)
    if ends < now:
        return failure("certificate", f"{settings.certfile} expired on {ends:%Y-%m-%d}", "have it renewed")
    return warning("certificate", said, "have it renewed") if ends < now + SOON else ok("certificate", said)
