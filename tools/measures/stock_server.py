"""The SDK's own server with one tool that does nothing, as its documentation shows it: `stdio`, or `http PORT`."""

import sys

from mcp.server import MCPServer

server = MCPServer("stock")


@server.tool()
async def nothing(number: int) -> int:
    """Returns the number."""
    return number


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["http", port]:
            server.run("streamable-http", port=int(port), json_response=True, stateless_http=True)
        case _:
            server.run()
