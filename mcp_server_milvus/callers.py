"""Who makes a request: what its bearer token says, or the one client of a server that asks for none."""

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from pydantic import ConfigDict

from mcp_server_milvus.policy import LOCAL, NOBODY, Caller


class CallerToken(AccessToken):
    """A token that was verified, and whose it is."""

    model_config = ConfigDict(defer_build=True)

    caller: Caller


def current_caller(*, authenticated: bool) -> Caller:
    """The caller of the request that is being handled. Where tokens are asked for, one without is nobody."""
    token = get_access_token()
    if isinstance(token, CallerToken):
        return token.caller
    return NOBODY if authenticated or token else LOCAL
