"""An `httpx.Auth` that pays for MCP tool calls: proof of work, x402, L402.

    auth = Countersign(account=eth_account.Account.from_key(key), pay_invoice=wallet.pay)
    httpx.post(url, json=call, auth=auth)
    mcp.client.streamable_http.streamable_http_client(url, http_client=httpx.AsyncClient(auth=auth))

A `tools/call` that is answered with a challenge is paid for, within the caps, and sent once more
with the payment; a second challenge ends it. What is paid for and not used up is kept by server,
tool, caller and arguments, and presented first: no call is paid twice. Everything else passes as
it came, denials and challenges that are not paid too; `say` gets the reason in a sentence.

Amounts are integers in minor units: of USDC a millionth, of BTC a millisatoshi. One file, which
needs httpx and nothing else; Python 3.10 or later.

Does not: sign in, check receipts, pay challenges that come inside an event stream, share its
limits between processes that run at the same time.
"""

import base64
import hashlib
import inspect
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx

HOUR, DAY = 3600, 86400
#: The longest a signature of ours is valid, whatever an offer asks, in seconds.
WINDOW_MAX = 900
#: What a token is called, by CAIP-19 in lower case.
ASSETS = {
    "eip155:8453/erc20:0x833589fcd6edb6e08f4c7c32d4f71b54bda02913": "USDC",
    "eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e": "USDC",
}
TRANSFER = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}
#: The L402 credential that was shown is no good.
BAD_CREDENTIAL = {"PAY-012", "PAY-013", "PAY-014", "PAY-017"}


class NotPaid(Exception):
    """Raised by `pay_invoice` when it is certain that nothing was paid."""


@dataclass
class Credential:
    """What was, or may have been, paid. `proof` is secret."""

    rail: str  # x402 | l402 | pow
    asset: str
    minor: int
    id: str  # the nonce, or the digest of the invoice
    expires: float
    uses: int | None  # None: as often as it likes
    in_meta: bool
    proof: dict
    earlier: bool = False

    def __repr__(self) -> str:
        return f"Credential({self.rail}, {self.minor} {self.asset})"


@dataclass
class Call:
    """A `tools/call`, as it is about to be sent."""

    request: httpx.Request
    message: dict
    is_exact: bool  # can be written again without changing a number
    tool: str
    scope: str  # server, tool, caller
    key: str  # and arguments


@dataclass
class Answer:
    """What a response says about money. `kind`: done, asked, refused, failed, input (the server
    asks for more), stream, gone (there was nothing to present)."""

    kind: str
    offers: list
    problem: dict

    @property
    def charged(self) -> str | None:
        return self.problem.get("charged")

    @property
    def code(self) -> str:
        return self.problem.get("code", "")


class Countersign(httpx.Auth):
    """Pays, within limits. Safe to share between clients, threads and tasks.

    - `account`: pays x402: an `eth_account` account, or anything with its `address` and
      `sign_typed_data(domain, types, message)`
    - `pay_invoice(bolt11) -> preimage in hex`: pays Lightning invoices; may be a coroutine
      function. Raises NotPaid if nothing was paid; after any other error it is asked for the same
      invoice again, and must not pay it a second time (Lightning wallets do not)
    - `per_call`, `per_hour`, `per_host_day`: the most that may be spent, by asset; `per_call` must
      name an asset for it to be spent at all
    - `hosts`: the only hosts that are paid; any if None
    - `work`: hashes to make, on average, where work is taken instead of money; 0 for none
    - `assets`: further tokens, {"eip155:…/erc20:0x…": "CODE"}
    - `state`: a directory that keeps credentials and the spend log over restarts
    - `say(text)`: what a person should read
    - `open_page(url)`, `approval_wait`: shows a page on which a person approves a call, and how
      many seconds to wait for that; without waiting the denial is what the caller gets
    """

    requires_request_body = True

    def __init__(
        self,
        *,
        account=None,
        pay_invoice: Callable | None = None,
        per_call: dict[str, int] | None = None,
        per_hour: dict[str, int] | None = None,
        per_host_day: dict[str, int] | None = None,
        hosts: set[str] | None = None,
        work: int = 2_000_000,
        assets: dict[str, str] | None = None,
        state: str | os.PathLike | None = None,
        say: Callable[[str], None] = lambda text: None,
        open_page: Callable[[str], None] | None = None,
        approval_wait: float = 0,
    ):
        self._account, self._pay_invoice, self._work = account, pay_invoice, work
        self._per_call = {"USDC": 100_000} if per_call is None else per_call
        self._ceilings = (per_hour or {}, per_host_day or {})
        self._hosts, self._say = hosts, say
        self._assets = ASSETS | {caip.lower(): code for caip, code in (assets or {}).items()}
        self._open_page, self._approval_wait = open_page, approval_wait
        self._lock, self._taken = threading.RLock(), set()
        self._kept: dict[str, Credential] = {}
        self._spent: dict[str, dict] = {}
        self._state = Path(state) if state is not None else None
        if self._state is not None:
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._load()

    # What is kept.

    def _load(self) -> None:
        credentials, log = self._state / "credentials.json", self._state / "spend.jsonl"
        if credentials.exists():
            kept = json.loads(credentials.read_text())
            self._kept = {key: Credential(**entry) for key, entry in kept.items()}
        for line in log.read_text().splitlines() if log.exists() else []:
            try:
                self._count(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # cut off, so it did not happen

    def _save(self) -> None:
        if self._state is None:
            return
        entries = {key: asdict(entry) for key, entry in self._kept.items()}
        beside = self._state / f"credentials.new-{os.getpid()}"
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(entries, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._state / "credentials.json")

    def _take(self, call: Call) -> tuple[str, Credential] | None:
        """The credential for a call; one that pays for a single call is held by one at a time."""
        with self._lock:
            for key in (call.key, call.scope):
                entry = self._kept.get(key)
                if entry and entry.expires > time.time() and (entry.id not in self._taken):
                    if entry.uses == 1:
                        self._taken.add(entry.id)
                    return key, Credential(**asdict(entry) | {"earlier": True})
        return None

    def _keep(self, key: str, entry: Credential) -> None:
        """On disk, if there is one, when this returns."""
        with self._lock:
            now = time.time()
            self._kept = {k: kept for k, kept in self._kept.items() if kept.expires > now}
            self._kept[key] = entry
            if entry.uses == 1:
                self._taken.add(entry.id)
            self._save()

    def _release(self, entry: Credential) -> None:
        with self._lock:
            self._taken.discard(entry.id)

    def _forget(self, key: str, entry: Credential, *, used: bool = False) -> None:
        """Drops a credential; where it was `used`, only with its last use."""
        with self._lock:
            self._taken.discard(entry.id)
            kept = self._kept.get(key)
            if kept is None or kept.id != entry.id:
                return
            if used and kept.uses != 1:
                kept.uses = kept.uses and kept.uses - 1
            else:
                del self._kept[key]
            self._save()

    # What is spent.

    def _count(self, line: dict) -> None:
        first = self._spent.get(line["id"], line)
        self._spent[line["id"]] = line | {"at": first["at"], "minor": str(int(line["minor"]))}

    def _note(self, call: Call, entry: Credential, outcome: str, receipt: str | None = None) -> None:
        """Writes down how a payment stands: a line of the form of `countersign connect`."""
        if entry.rail == "pow":
            return
        line = {
            "at": int(time.time() * 1000), "id": entry.id, "host": call.request.url.host,
            "tool": call.tool, "rail": entry.rail, "asset": entry.asset,
            "minor": str(entry.minor), "micros": None, "outcome": outcome,
        }
        if receipt is not None:
            line["receipt"] = receipt
        with self._lock:
            self._count(line)
            if self._state is not None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                with open(os.open(self._state / "spend.jsonl", flags, 0o600), "a") as file:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    os.fsync(file.fileno())

    def _is_over(self, host: str, asset: str, minor: int) -> bool:
        """Whether a ceiling does not hold, or none of those that are set measures the asset."""
        now = time.time() * 1000
        per_hour, per_host_day = self._ceilings
        for ceiling, window, only in ((per_hour, HOUR, None), (per_host_day, DAY, host)):
            if not ceiling:
                continue
            past = sum(
                int(line["minor"])
                for line in self._spent.values()
                if line["asset"] == asset and line["outcome"] != "not_charged"
                and line["at"] > now - window * 1000 and only in (None, line["host"])
            )
            if asset not in ceiling or past + minor > ceiling[asset]:
                return True
        return False

    # What is paid.

    def _choose(self, call: Call, offers: list) -> Credential | None:
        """The first offer that may be taken, reserved; says why where there is none."""
        reasons = []
        for offer in offers:
            try:
                with self._lock:
                    entry = self._price(call, offer)
                    if entry.rail != "pow":
                        self._note(call, entry, "paying")
                return entry
            except ValueError as reason:
                reasons.append(str(reason))
        self._say("not paid: " + ("; ".join(reasons) or "no offer that can be read"))
        return None

    def _price(self, call: Call, offer: dict) -> Credential:
        host = call.request.url.host
        if offer["rail"] == "pow":
            if 2**64 // (int(offer["target"][:16], 16) + 1) > self._work:
                raise ValueError("work: more than may be done")
            nonce, expires = offer["nonce"], int(offer["expiresAt"]) / 1000
            entry = ("pow", "WORK", 0, digest(nonce), expires, 1, offer["in_meta"], offer)
            return Credential(*entry)
        if offer["rail"] == "l402":
            if self._pay_invoice is None:
                raise ValueError("l402: no wallet")
            asset, minor = "BTC", invoice_msat(offer["invoice"])
            if offer.get("amount") is not None and offer["amount"] * 1000 != minor:
                raise ValueError("l402: the invoice asks another amount than the offer")
        else:
            if self._account is None:
                raise ValueError("x402: no account")
            caip = f"{offer['network']}/erc20:{offer['asset']}".lower()
            asset, minor = self._assets.get(caip), int(offer["amount"])
            if asset is None:
                raise ValueError("x402: the asset is not one that may be spent")
        if minor > self._per_call.get(asset, -1):
            raise ValueError(f"{offer['rail']}: {minor} of {asset} is above the cap")
        if self._hosts is not None and host not in self._hosts:
            raise ValueError(f"{host} is not one that may be paid")
        if self._is_over(host, asset, minor):
            raise ValueError(f"{offer['rail']}: too much was spent in this hour, or on this host")
        if offer["rail"] == "l402":
            uses, expires = macaroon_terms(offer["token"])
            # `Authorization` is taken where there is a token.
            in_meta = offer["in_meta"] or "authorization" in call.request.headers
            proof = {"token": offer["token"], "invoice": offer["invoice"]}
            id_ = digest(offer["invoice"])
            return Credential("l402", asset, minor, id_, expires, uses, in_meta, proof)
        return self._sign(offer, asset, minor)

    def _sign(self, offer: dict, asset: str, minor: int) -> Credential:
        now, nonce = int(time.time()), secrets.token_hex(32)
        extra = offer["accepted"].get("extra") or {}
        if extra.get("assetTransferMethod", "eip3009") != "eip3009" or "name" not in extra:
            raise ValueError("x402: the offer is of a kind that is not paid")
        before = now + min(int(offer["accepted"]["maxTimeoutSeconds"]), WINDOW_MAX)
        domain = {
            "name": extra["name"], "version": extra["version"],
            "chainId": int(offer["network"].split(":")[1]), "verifyingContract": offer["asset"],
        }
        transfer = {
            "from": self._account.address, "to": offer["accepted"]["payTo"], "value": minor,
            "validAfter": 0, "validBefore": before, "nonce": bytes.fromhex(nonce),
        }
        signed = self._account.sign_typed_data(domain, TRANSFER, transfer)
        signature = bytes(getattr(signed, "signature", signed)).hex()
        written = {k: str(v) for k, v in transfer.items()} | {"nonce": f"0x{nonce}"}
        payload = {
            "x402Version": 2, "accepted": offer["accepted"],
            "payload": {"signature": f"0x{signature}", "authorization": written},
        }
        payload |= {k: offer[k] for k in ("resource", "extensions") if offer[k] is not None}
        return Credential("x402", asset, minor, nonce, before, 1, offer["in_meta"], payload)

    # The sequence: a generator of (what, on what), so that it is the same with and without await.

    def sync_auth_flow(self, request):
        flow = self._flow(request)
        try:
            step = next(flow)
            while True:
                kind, subject = step
                try:
                    if kind == "send":
                        result = yield subject
                    elif kind == "read":
                        result = subject.read()
                    else:
                        result = subject()
                    if inspect.isawaitable(result):
                        raise TypeError("a coroutine function needs an asynchronous client")
                except Exception as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration:
            return
        finally:
            flow.close()

    async def async_auth_flow(self, request):
        await request.aread()
        flow = self._flow(request)
        try:
            step = next(flow)
            while True:
                kind, subject = step
                try:
                    if kind == "send":
                        result = yield subject
                    elif kind == "read":
                        result = await subject.aread()
                    elif inspect.iscoroutinefunction(getattr(subject, "func", None)):
                        result = await subject()
                    else:
                        result = await anyio.to_thread.run_sync(subject)
                except Exception as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration:
            return
        finally:
            flow.close()

    def _flow(self, request):
        call = read_call(request)
        if call is None:
            yield "send", request
            return
        held = self._take(call)
        if held is not None:
            answer = yield from self._present(call, *held)
            if answer is None:
                return
        else:
            answer = None
        if answer is None or answer.kind != "asked":
            answer = yield from self._ask(call)
        if answer.kind != "asked":
            return
        entry = self._choose(call, answer.offers)
        if entry is None:
            return
        key = call.key if entry.uses == 1 else call.scope
        self._keep(key, entry)
        yield from self._present(call, key, entry)

    def _ask(self, call: Call):
        """The call without a payment; where a person must approve it, until somebody has."""
        until, shown = time.monotonic() + self._approval_wait, None
        while True:
            response = yield "send", call.request
            answer = yield from read_answer(response)
            url = page_of(answer)
            if url is None or shown is not None and url != shown:
                return answer
            if "requestState" in call.message["params"]:  # counts once, and was shown already
                return answer
            if shown is None:
                self._say(f"{answer.problem.get('title')}: approve it at {url}")
                if self._open_page:
                    self._open_page(url)
                shown = url
            if time.monotonic() >= until:
                return answer
            yield "call", partial(time.sleep, 2)

    def _present(self, call: Call, key: str, entry: Credential):
        """Pays if need be and presents the payment, once. Gives the answer where the call is to be
        paid anew: an earlier credential is gone, and nothing was taken for it."""
        is_over = False
        try:
            if not (yield from self._prove(call, key, entry)):
                is_over = True
                return Answer("gone", [], {}) if entry.earlier else None
            response = yield "send", paid_request(call, entry)
            answer = yield from read_answer(response)
            if answer.kind == "stream":
                is_over = True
                end = lambda text: self._conclude(call, key, entry, judged(text, 200, {}))
                response.stream = Watched(response.stream, end, lambda: self._lose(call, entry))
                return None
            is_over = True
            return self._conclude(call, key, entry, answer)
        finally:
            if not is_over:
                self._lose(call, entry)

    def _lose(self, call: Call, entry: Credential) -> None:
        """The answer was lost: the same call presents the same payment again."""
        self._note(call, entry, "unknown")
        self._release(entry)
        if entry.rail != "pow":
            self._say("money may have moved: repeat the very same call, it is not paid again")

    def _prove(self, call: Call, key: str, entry: Credential):
        """Whether there is something to present: pays the invoice, does the work."""
        if entry.rail == "pow" and "solution" not in entry.proof:
            target, nonce = entry.proof["target"], entry.proof["nonce"]
            within = entry.expires - time.time()
            solution = yield "call", partial(solve, nonce, target, within)
            if solution is None:
                self._say("not paid: the work was not done in time")
                self._forget(key, entry)
                return False
            entry.proof = {"nonce": nonce, "solution": solution}
        if entry.rail == "l402" and "preimage" not in entry.proof:
            invoice = entry.proof["invoice"]
            try:
                preimage = yield "call", partial(self._pay_invoice, invoice)
            except NotPaid:
                self._say("not paid: the wallet did not pay")
                self._note(call, entry, "not_charged")
                self._forget(key, entry)
                return False
            token = entry.proof["token"]
            if hashlib.sha256(bytes.fromhex(preimage)).digest() not in unbased(token):
                raise ValueError("the wallet's preimage is not of this invoice")
            entry.proof = {"token": token, "invoice": invoice, "preimage": preimage}
            self._keep(key, entry)
        return True

    def _conclude(self, call: Call, key: str, entry: Credential, answer: Answer) -> Answer | None:
        """Writes down what an answer says about a payment, and what becomes of the credential."""
        code, charged, is_l402 = answer.code, answer.charged, entry.rail == "l402"
        is_bad = is_l402 and code in BAD_CREDENTIAL
        if answer.kind == "done":
            self._note(call, entry, "answered", answer.problem.get("receipt"))
            self._forget(key, entry, used=True)
            how = "used" if entry.earlier else "paid"
            self._say(f"{how} {entry.minor} minor units of {entry.asset} over {entry.rail}")
            return None
        if answer.kind == "input":
            self._note(call, entry, "unused")
            self._release(entry)
            return None
        if entry.earlier and (is_bad or answer.kind == "asked" and (
            charged == "no" or is_l402 and charged is None
        )):
            if charged == "no" and not is_l402:
                self._note(call, entry, "not_charged")
            self._forget(key, entry)
            return answer
        if entry.rail == "pow":
            self._forget(key, entry)
        elif charged == "no" and not is_l402:
            self._note(call, entry, "not_charged")
            self._forget(key, entry)
        elif charged == "yes" or is_bad and charged != "unused":
            self._note(call, entry, "charged")
            self._forget(key, entry)
        else:
            is_unused = is_l402 and answer.kind != "failed" and charged in (None, "no", "unused")
            self._note(call, entry, "unused" if is_unused else "unknown")
            self._release(entry)
        self._say(f"{answer.code or 'refused'} after a payment; charged: {charged or 'not said'}")
        return None


class Watched(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream that passes as it comes; what its answer says, or that it was lost, is told of."""

    def __init__(self, stream, ended, lost):
        self._stream, self._ended, self._lost = stream, ended, lost
        self._rest, self._is_over = b"", False

    def _see(self, chunk: bytes) -> bytes:
        # Whoever has the answer may leave before the stream ends.
        *events, self._rest = re.split(rb"\r?\n\r?\n", self._rest + chunk)
        for event in events:
            lines = event.decode(errors="replace").splitlines()
            data = "".join(line[5:] for line in lines if line.startswith("data:"))
            if re.search(r'"(result|error)"', data) and not self._is_over:
                self._is_over = True
                self._ended(data)
        return chunk

    def _end(self) -> None:
        self._see(b"\n\n")
        if not self._is_over:
            self._is_over = True
            self._lost()

    def __iter__(self):
        for chunk in self._stream:
            yield self._see(chunk)
        self._end()

    async def __aiter__(self):
        async for chunk in self._stream:
            yield self._see(chunk)
        self._end()

    def close(self) -> None:
        self._stream.close()
        self._end()

    async def aclose(self) -> None:
        await self._stream.aclose()
        self._end()


# Reading and writing.


def read_call(request: httpx.Request) -> Call | None:
    if request.method != "POST":
        return None
    inexact = []

    def number(text: str) -> float:
        value = float(text)
        if repr(value) != text:
            inexact.append(text)
        return value

    try:
        message = json.loads(request.content, parse_float=number)
        params = message["params"]
        if message["method"] != "tools/call" or "id" not in message:
            return None
        tool, arguments = params["name"], params.get("arguments", {})
        is_dict = isinstance(params, dict) and isinstance(tool, str)
    except (ValueError, KeyError, TypeError):
        return None
    if not is_dict:
        return None
    url = str(request.url)
    caller = principal(request.headers.get("authorization"))
    scope = digest(json.dumps([url, tool, caller]))
    key = digest(scope + json.dumps(arguments, sort_keys=True))
    return Call(request, message, not inexact, tool, scope, key)


def principal(authorization: str | None) -> str:
    """Whose credentials these are: what a JWT says, unverified, or the digest of the token."""
    if not authorization:
        return "anonymous"
    try:
        part = authorization.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        agent = claims.get("client_id") or claims.get("azp")
        return json.dumps([claims["iss"], claims["sub"], agent])
    except (IndexError, ValueError, KeyError, AttributeError):
        return digest(authorization)


def paid_request(call: Call, entry: Credential) -> httpx.Request:
    headers, proof = httpx.Headers(call.request.headers), entry.proof
    headers.pop("content-length", None)
    body = call.request.content
    if entry.in_meta and call.is_exact:
        if entry.rail == "x402":
            name, value = "x402/payment", proof
        elif entry.rail == "l402":
            credential = f"{proof['token']}:{proof['preimage']}"
            name, value = "ai.bolthub/payment", {"scheme": "l402", "proof": credential}
        else:
            name, value = "countersign/pow", proof
        params = call.message["params"]
        meta = (params.get("_meta") or {}) | {name: value}
        body = json.dumps(call.message | {"params": params | {"_meta": meta}}).encode()
    elif entry.rail == "x402":
        headers["PAYMENT-SIGNATURE"] = base64.b64encode(json.dumps(proof).encode()).decode()
    elif entry.rail == "pow":
        headers["PoW-Solution"] = f"{proof['nonce']}:{proof['solution']}"
    else:
        credential, shown = f"{proof['token']}:{proof['preimage']}", headers.get("authorization")
        if shown and shown.lower().startswith("bearer "):
            del headers["authorization"]
            headers["X-MCP-Auth-Composite"] = f"Identity {shown[7:]}, Payment {credential}"
        else:
            headers["authorization"] = f"L402 {credential}"
    url, extensions = call.request.url, call.request.extensions
    return httpx.Request("POST", url, headers=headers, content=body, extensions=extensions)


def read_answer(response: httpx.Response):
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        return Answer("stream", [], {})
    yield "read", response
    return judged(response.text, response.status_code, response.headers)


def judged(text: str, status: int, headers) -> Answer:
    """What a body says about money."""
    try:
        message = json.loads(text)
    except ValueError:
        message = {}
    message = message if isinstance(message, dict) else {}
    result, error = message.get("result"), message.get("error")
    result = result if isinstance(result, dict) else None
    meta = (result or {}).get("_meta") or {}
    is_error = bool(result and result.get("isError"))
    problem = {}
    if (result or {}).get("resultType", "complete") not in ("complete", "payment_required"):
        return Answer("input", [], {})
    if is_error:
        problem = meta.get("countersign/refusal") or {}
    elif isinstance(error, dict):
        data = error.get("data") if isinstance(error.get("data"), dict) else {}
        problem = data.get("countersign/refusal") or (data if "code" in data else {})
        for asked in data.get("elicitations") or []:
            problem = {"code": "CNS", "title": error.get("message"), "next": asked}
    elif result is None and "code" in message:
        problem = message
    offers = offers_of(status, headers, message, result if is_error else None, meta)
    if offers:
        return Answer("asked", offers, problem)
    if problem or status >= 400 or status < 200:
        return Answer("refused", [], problem)
    if result is not None:
        token = meta.get("countersign/receipt")
        return Answer("done", [], {"receipt": receipt_call(token)} if token else {})
    return Answer("failed", [], {})


def offers_of(status: int, headers, message: dict, result: dict | None, meta: dict) -> list:
    """Work first, then x402, then L402. Two x402 challenges that differ are none."""
    x402, l402, work = [], [], []
    if status == 402:
        if "payment-required" in headers:
            x402.append((decoded(headers["payment-required"]), False))
        shown = headers.get("www-authenticate", "")
        found = re.search(r'L402 macaroon="([^"]+)", invoice="([^"]+)"', shown)
        if found:
            l402.append({"token": found[1], "invoice": found[2], "in_meta": False})
        if isinstance(message.get("pow"), dict):
            work.append(message["pow"] | {"in_meta": False})
    if result is not None:
        places = [result.get("structuredContent"), meta.get("x402/error")]
        x402 += [(p, True) for p in places if isinstance(p, dict) and "accepts" in p]
        for offer in (meta.get("ai.bolthub/payment") or {}).get("offers", []):
            if offer.get("scheme") == "l402" and offer.get("asset", "sat") == "sat":
                l402.append(offer | {"in_meta": True})
        if isinstance(meta.get("countersign/pow"), dict):
            work.append(meta["countersign/pow"] | {"in_meta": True})
    offers = [w | {"rail": "pow"} for w in work[:1] if w.get("algorithm") == "SHA-256"]
    if x402 and all(challenge["accepts"] == x402[0][0]["accepts"] for challenge, _ in x402):
        challenge, in_meta = x402[0]
        for accepted in challenge["accepts"]:
            if accepted.get("scheme") == "exact" and accepted["network"].startswith("eip155:"):
                terms = {k: accepted[k] for k in ("network", "asset", "amount")}
                outer = {k: challenge.get(k) for k in ("resource", "extensions")}
                rest = {"rail": "x402", "accepted": accepted, "in_meta": in_meta}
                offers.append(terms | outer | rest)
    return offers + [offer | {"rail": "l402"} for offer in l402]


def page_of(answer: Answer) -> str | None:
    """Where a person can approve the call: a page over https, or of this machine."""
    url = (answer.problem.get("next") or {}).get("url")
    if not answer.code.startswith("CNS") or answer.kind != "refused" or not url:
        return None
    if answer.code in ("CNS-009", "CNS-012"):  # somebody has said no
        return None
    parts = urlsplit(url)
    is_here = parts.hostname in ("127.0.0.1", "::1", "localhost")
    return url if parts.scheme == "https" or parts.scheme == "http" and is_here else None


def invoice_msat(invoice: str) -> int:
    """The amount of a BOLT11 invoice. The wallet checks the rest of it."""
    found = re.fullmatch(r"ln[a-z]+?(\d+)([munp]?)", invoice.lower().rpartition("1")[0])
    if not found:
        raise ValueError("l402: the invoice has no amount")
    pico = int(found[1]) * {"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1}[found[2]]
    if pico % 10:
        raise ValueError("l402: the invoice has no whole amount")
    return pico // 10


def macaroon_terms(token: str) -> tuple[int | None, float]:
    """How many calls an L402 macaroon pays for, and until when, as its caveats say."""
    uses, ends = [], [time.time() + DAY]
    for key, value in re.findall(rb"([a-z_]+) ?= ?(\w+)", unbased(token)):
        if key == b"call":
            uses.append(1)
        elif key == b"n_uses" and value.isdigit():
            uses.append(int(value))
        elif re.search(rb"^(expires(_at)?|exp|expiry)$|valid_until$", key) and value.isdigit():
            # Seconds until the year 5138; milliseconds since 1973.
            ends.append(int(value) if int(value) < 10**11 else int(value) / 1000)
    is_dated = len(ends) > 1
    return min(uses, default=None), min(ends[1:]) if is_dated else ends[0]


def unbased(token: str) -> bytes:
    try:
        return base64.b64decode(token.translate(str.maketrans("-_", "+/")) + "==")
    except ValueError:
        raise ValueError("l402: the token is no macaroon") from None


def receipt_call(token) -> str | None:
    """The call that a receipt is for, unverified: for the log."""
    try:
        part = token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["call"]
    except (AttributeError, IndexError, ValueError, KeyError):
        return None


def solve(nonce: str, target: str, within: float) -> str | None:
    """A text after which the hash of the nonce is at most the target."""
    start, limit, n = hashlib.sha256(nonce.encode()), bytes.fromhex(target), 0
    until = time.monotonic() + within
    while True:
        if n % 4096 == 0 and time.monotonic() > until:
            return None
        attempt = start.copy()
        attempt.update(b"%d" % n)
        if attempt.digest() <= limit:
            return str(n)
        n += 1


def decoded(header: str) -> dict:
    return json.loads(base64.b64decode(header))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
