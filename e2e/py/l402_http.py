"""The HTTP client of PyPI `l402-requests`, paying from the wallet at $WALLET_URL.

Reads JSON from standard input: {requests: [{method, url, headers?, json?}], max_sats?}. One client
makes them all, so that its cache of credentials is in play. Prints {responses: [{status, body,
error?}], spent_sats}. Without `max_sats` the client keeps its own limits (1000 a request).
"""

import json
import sys

from l402_requests import BudgetController, L402Client

from wallet import UrlWallet


def run(job: dict) -> dict:
    limit = job.get("max_sats")
    budget = BudgetController(limit, limit, limit) if limit else BudgetController()
    client = L402Client(wallet=UrlWallet(), budget=budget)
    responses = [attempt(client, request) for request in job["requests"]]
    return {"responses": responses, "spent_sats": client.spending_log.total_spent()}


def attempt(client: L402Client, request: dict) -> dict:
    try:
        response = client.request(
            request["method"],
            request["url"],
            headers=request.get("headers", {}),
            **({"json": request["json"]} if "json" in request else {}),
        )
    except Exception as error:  # what the client makes of it is the result
        return {"status": None, "body": None, "error": f"{type(error).__name__}: {error}"}
    return {"status": response.status_code, "body": response.text}


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
