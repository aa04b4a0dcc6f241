"""The tool client of PyPI `bolthub`: L402 inside MCP results, paid from the wallet at $WALLET_URL.

Reads JSON from standard input: {url, headers?, max_sats, calls: [{tool, arguments}]}. It knows no
MCP transport of its own: each call is one JSON-RPC POST, answered by JSON or one SSE message.
Prints {results: [...], paid: [...]}.
"""

import json
import sys

import httpx
from bolthub import ToolClient, l402_payer

from wallet import SyncUrlWallet


def run(job: dict) -> dict:
    paid = []
    client = ToolClient(
        [l402_payer(SyncUrlWallet())], max_total={"sat": job["max_sats"]}, on_paid=paid.append
    )
    results = [client.call(caller(job, call)) for call in job["calls"]]
    return {"results": results, "paid": paid}


def caller(job: dict, call: dict):
    def send(meta=None):
        params = {"name": call["tool"], "arguments": call.get("arguments", {})}
        meta = {**call.get("meta", {}), **(meta or {})}
        if meta:
            params["_meta"] = meta
        headers = {"accept": "application/json, text/event-stream", **job.get("headers", {})}
        response = httpx.post(
            job["url"],
            headers=headers,
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
            timeout=60,
        )
        message = message_of(response)
        if "result" not in message:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        return message["result"]

    return send


def message_of(response: httpx.Response) -> dict:
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        return response.json()
    data = [line[5:] for line in response.text.splitlines() if line.startswith("data:")]
    messages = [json.loads(line) for line in data if line.strip()]
    return next(message for message in messages if message.get("id") == 1)


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
