"""Calls a tool and pays for it: `python example.py URL TOOL ARGUMENTS`, over the MCP SDK.

`LIGHTNING` is the URL of a wallet (`POST URL/pay {"invoice"}` gives `{"preimage"}`), `EVM_KEY` the
private key of an account; one of them may be missing. `TOKEN`, if set, is the access token.
"""

import asyncio
import json
import os
import sys

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from countersign_auth import Countersign, NotPaid


async def pay(invoice: str) -> str:
    async with httpx.AsyncClient(timeout=60) as wallet:
        answer = await wallet.post(f"{os.environ['LIGHTNING']}/pay", json={"invoice": invoice})
    if answer.status_code >= 400:
        raise NotPaid(answer.text)
    return answer.json()["preimage"]


def account():
    from eth_account import Account

    return Account.from_key(os.environ["EVM_KEY"])


async def main(url: str, tool: str, arguments: str) -> None:
    auth = Countersign(
        account=account() if "EVM_KEY" in os.environ else None,
        pay_invoice=pay if "LIGHTNING" in os.environ else None,
        per_call={"USDC": 100_000, "BTC": 20_000},  # ten cents, twenty sat
        state=os.environ.get("STATE"),
        say=lambda text: print(text, file=sys.stderr),
    )
    token = os.environ.get("TOKEN")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx.AsyncClient(auth=auth, headers=headers, timeout=60) as http,
        streamable_http_client(url, http_client=http) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        result = await session.call_tool(tool, json.loads(arguments))
        print(result.model_dump_json(by_alias=True, exclude_none=True))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
