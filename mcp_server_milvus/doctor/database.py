"""Milvus: the embedded engine or a server, from the name of its host to what is in the database."""

import ssl
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.to_thread

from mcp_server_milvus.doctor.finding import Examined, Finding, failure, ok, seconds_of_a_check, warning
from mcp_server_milvus.errors import Conflict, Denied, Error, NotFound
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.engine import EngineFolder
from mcp_server_milvus.vocabulary import MilvusIdentity

CONNECT_SECONDS = 5.0
LOOKED_AT = 100
"""Collections of which it is asked whether they are loaded."""


async def check_engine(examined: Examined) -> Finding | None:
    """Whether an engine of the data folder lives already, and whose process it is."""
    data = examined.settings.embedded_dir
    if data is None:
        return None
    return await anyio.to_thread.run_sync(_engine, EngineFolder(data), abandon_on_cancel=True)


def _engine(folder: EngineFolder) -> Finding:
    if not folder.path.is_dir():
        return ok("engine", "none runs; it is started when it is first needed")
    try:
        with folder.lock("alive").sharing() as dead:
            address = folder.read_address()
    except OSError as error:
        remedy = "give this user all rights to the data folder, or choose another with --data-dir"
        return failure("engine", f"{folder.path} cannot be used: {error.strerror}", remedy)
    if dead:
        left = "; an ended one left its address behind, which the next removes" if address else ""
        return ok("engine", f"none runs{left}")
    return ok("engine", f"runs already, as process {_process(folder)}, and is shared")


def _process(folder: EngineFolder) -> str:
    with suppress(OSError, IndexError):
        return (folder.path / "address").read_text("utf-8").split("\n")[1]
    return "unknown"


async def check_network(examined: Examined) -> Finding | None:
    """Whether the name of the host resolves and something listens at the port."""
    address = _address(examined)
    if address is None:
        return None
    where = f"{address.hostname}:{address.port or 19530}"
    remedy = "check that Milvus runs, and --uri (MILVUS_URI); a container must publish the port"
    try:
        with anyio.fail_after(min(CONNECT_SECONDS, seconds_of_a_check(examined.settings) / 2)):
            stream = await anyio.connect_tcp(address.hostname or "", address.port or 19530)
            await stream.aclose()
    except TimeoutError:
        return failure("network", f"{where} does not answer", f"{remedy}; a firewall may be in between")
    except OSError as error:
        return failure("network", f"{where}: {_reason(error)}", remedy)
    examined.listens = True
    return ok("network", f"{where} accepts connections")


def _reason(error: OSError) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    return cause.strerror or str(cause)


async def check_tls(examined: Examined) -> Finding | None:
    """Whether the certificate of an https:// address is one that this machine trusts."""
    address = _address(examined)
    if address is None or address.scheme != "https" or not examined.listens:
        return None
    remedy = "use http:// if the port speaks no TLS; else have its certificate made by an authority that is trusted"
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    try:
        with anyio.fail_after(min(CONNECT_SECONDS, seconds_of_a_check(examined.settings) / 2)):
            stream = await anyio.connect_tcp(
                address.hostname or "", address.port or 19530, ssl_context=context, tls_standard_compatible=False
            )
            await stream.aclose()
    except ssl.SSLError as error:
        return failure("TLS", error.reason or str(error), remedy)
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
        return failure("TLS", "the connection ended, or nothing came, instead of a certificate", remedy)
    return ok("TLS", "the certificate is trusted")


def _address(examined: Examined) -> SplitResult | None:
    return None if examined.settings.embedded_dir else urlsplit(examined.settings.uri)


async def check_milvus(examined: Examined) -> Finding | None:
    """Whether Milvus answers and takes the credentials, and its version. An embedded engine is started for that."""
    if examined.settings.milvus_identity is MilvusIdentity.CALLER:
        return None  # without a caller's account it cannot be asked
    credentials = "credentials accepted" if examined.settings.credentials else "no credentials set, none asked for"
    try:
        examined.backend = await examined.app.with_everything().clients.backend("")
    except Denied as error:
        remedy = "check --token (MILVUS_TOKEN), or --user and --password: root:Milvus is the account of a new server"
        return failure("Milvus", f"authentication: {error.message}", remedy)
    except Conflict as error:
        return failure("Milvus", error.message, error.hint)
    except Error as error:
        return failure("Milvus", error.message, error.hint or "check that Milvus runs, and --uri (MILVUS_URI)")
    if examined.settings.embedded_dir:
        return ok("Milvus", f"{examined.backend} answers")
    return ok("Milvus", f"{examined.backend} answers; {credentials}")


async def check_capabilities(examined: Examined) -> Finding | None:
    """What the backend has not, in one line."""
    backend = examined.backend
    if backend is None:
        return None
    missing = [feature.value for feature in Feature if not backend.has(feature)]
    told = f"all but: {', '.join(missing)}" if missing else "everything that the tools can ask for"
    return ok("capabilities", told)


async def check_database(examined: Examined) -> Finding | None:
    """Whether the database of calls that name none is there, and what of it is not loaded."""
    if examined.backend is None:
        return None
    db_name = examined.settings.db_name
    try:
        async with examined.app.clients.client(db_name) as client:
            names = sorted(await client.list_collections())
            unloaded = [name for name in names[:LOOKED_AT] if not await client.is_loaded(name)]
    except NotFound as error:
        remedy = "set --db-name (MILVUS_DB) to one that there is, or make it with the tool create_database"
        return failure("database", error.message, remedy)
    except Denied as error:
        remedy = "grant the account the right to list collections, or use another account"
        return failure("database", f"{db_name}: {error.message}", remedy)
    except Error as error:
        return failure("database", f"{db_name}: {error.message}", error.hint or "run doctor again")
    said = f"{db_name}: {len(names)} collections, {len(unloaded)} not loaded"
    said += f" (of the first {LOOKED_AT})" if len(names) > LOOKED_AT else ""
    if unloaded and not examined.settings.auto_load:
        return warning("database", said, "load_collection loads one; with --auto-load they are loaded when read")
    return ok("database", said)
