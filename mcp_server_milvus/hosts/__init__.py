"""How the hosts of MCP servers are told of this one."""
