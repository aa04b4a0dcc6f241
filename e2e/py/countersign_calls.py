"""`Countersign` of clients/python under a plain httpx client, with and without await.

Reads JSON from standard input: {url, tool, token?, lightning?, key?, options, calls: [arguments],
is_async, accept?}. Prints {answers: [{status, text, error?}], said, pages, paid}.
"""

import asyncio
import json
import sys
from pathlib import Path

import httpx

sys.path.append(str(Path(__file__).parents[2] / "clients" / "python"))
from countersign_auth import Countersign, NotPaid  # noqa: E402


def prepare(job: dict) -> tuple[Countersign, dict]:
    heard = {"said": [], "pages": [], "paid": []}

    def pay(invoice: str) -> str:
        heard["paid"].append(invoice)
        answer = httpx.post(f"{job['lightning']}/pay", json={"invoice": invoice}, timeout=60)
        if answer.status_code >= 400:
            raise NotPaid(answer.text)
        return answer.json()["preimage"]

    options = job.get("options", {})
    if job.get("key"):
        from eth_account import Account

        options["account"] = Account.from_key(job["key"])
    if job.get("lightning"):
        options["pay_invoice"] = pay
    if "hosts" in options:
        options["hosts"] = set(options["hosts"])
    auth = Countersign(say=heard["said"].append, open_page=heard["pages"].append, **options)
    return auth, heard


def message(job: dict, arguments: dict) -> dict:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": job["tool"], "arguments": arguments, "_meta": meta}
    headers = {
        "accept": job.get("accept", "application/json"),
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": job["tool"],
    }
    if job.get("token"):
        headers["authorization"] = f"Bearer {job['token']}"
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return {"url": job["url"], "headers": headers, "json": body, "timeout": 60}


def told(send) -> dict:
    try:
        response = send()
    except httpx.HTTPError as error:
        return {"error": type(error).__name__}
    return {"status": response.status_code, "text": response.text}


async def told_later(send) -> dict:
    try:
        response = await send
    except httpx.HTTPError as error:
        return {"error": type(error).__name__}
    return {"status": response.status_code, "text": response.text}


async def run_async(job: dict) -> dict:
    auth, heard = prepare(job)
    async with httpx.AsyncClient(auth=auth) as client:
        calls = [told_later(client.post(**message(job, args))) for args in job["calls"]]
        return {"answers": [await call for call in calls], **heard}


def run(job: dict) -> dict:
    auth, heard = prepare(job)
    with httpx.Client(auth=auth) as client:
        calls = [message(job, arguments) for arguments in job["calls"]]
        return {"answers": [told(lambda: client.post(**call)) for call in calls], **heard}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(asyncio.run(run_async(asked)) if asked.get("is_async") else run(asked), sys.stdout)
