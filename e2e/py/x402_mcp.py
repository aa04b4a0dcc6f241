"""The x402 MCP client of PyPI `x402` over the MCP SDK's streamable HTTP (legacy era).

Reads JSON from standard input: {url, token?, headers?, key, calls: [{tool, arguments}]}.
Prints {tools, results: [{is_error, content, payment_made, payment_response}]}.
"""

import asyncio
import json
import sys

import httpx
from eth_account import Account
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from x402 import x402Client
from x402.mcp import x402MCPSession
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.register import register_exact_evm_client


async def run(job: dict) -> dict:
    payer = x402Client()
    register_exact_evm_client(payer, EthAccountSigner(Account.from_key(job["key"])))
    headers = dict(job.get("headers", {}))
    if job.get("token"):
        headers["authorization"] = f"Bearer {job['token']}"
    async with (
        httpx.AsyncClient(headers=headers, timeout=60) as http,
        streamable_http_client(job["url"], http_client=http) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        paying = x402MCPSession(session, payer)
        await paying.initialize()
        tools = await paying.list_tools()
        results = [
            describe(await paying.call_tool(call["tool"], call.get("arguments", {})))
            for call in job.get("calls", [])
        ]
        return {"tools": [tool.name for tool in tools.tools], "results": results}


def describe(result) -> dict:
    response = result.payment_response
    return {
        "is_error": result.is_error,
        "content": [item.model_dump(mode="json", by_alias=True) for item in result.content],
        "payment_made": result.payment_made,
        "payment_response": response.model_dump(mode="json", by_alias=True)
        if hasattr(response, "model_dump")
        else response,
        "meta": result.raw_result.meta,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
