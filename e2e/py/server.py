"""An MCP server of the official Python SDK over streamable HTTP, with sessions: `server.py PORT`."""

import sys

from mcp.server.fastmcp import FastMCP

server = FastMCP("python", host="127.0.0.1", port=int(sys.argv[1]), log_level="WARNING")


@server.tool()
def echo(message: str) -> str:
    """Says it again."""
    return f"Echo: {message}"


server.run("streamable-http")
