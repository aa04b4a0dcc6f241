"""Mints access tokens that a strict verifier must tell apart, with two JOSE libraries and by hand.

    python mint_hostile.py ISSUER AUDIENCE OUT_DIR [--scope SCOPE] [--subject SUBJECT]

Writes OUT_DIR/jwks.json (public keys: RS256, ES256, EdDSA) and OUT_DIR/tokens.json, a map from name
to token. The name says what must become of it:

    ok-         accepted
    interop-    good by a newer RFC; accepting it is right, refusing it is a documented limit
    malleable-  a second valid signature over the same token: accepted, but as the same token
    bad-        refused
    big-        refused for its size
    deep-       refused for its nesting

Every bad token differs from a good one in the one thing that its name says.
"""

import argparse
import base64
import hashlib
import hmac
import json
import secrets
import time
from pathlib import Path

import jwt as pyjwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ALGORITHMS = ["RS256", "ES256", "EdDSA", "Ed25519"]
HOUR_S = 3_600
REMOVED = object()


class Mint:
    """Keys, and good claims to spoil."""

    def __init__(self, issuer: str, audience: str, scope: str, subject: str):
        self.issuer, self.audience = issuer, audience
        self.now = int(time.time())
        self.rsa = RSAKey.generate_key(2048, {"kid": "rsa1", "use": "sig", "alg": "RS256"})
        self.ec = ECKey.generate_key("P-256", {"kid": "ec1", "use": "sig", "alg": "ES256"})
        self.ed = OKPKey.generate_key("Ed25519", {"kid": "ed1", "use": "sig", "alg": "EdDSA"})
        # Not in the JWKS, though it claims a kid that is.
        self.foreign = ECKey.generate_key("P-256", {"kid": "ec1"})
        self.good = {
            "iss": issuer,
            "sub": subject,
            "aud": audience,
            "client_id": "agent-1",
            "iat": self.now,
            "exp": self.now + HOUR_S,
            "scope": scope,
        }

    def jwks(self) -> dict:
        return {"keys": [key.as_dict(private=False) for key in (self.rsa, self.ec, self.ed)]}

    def header(self, **changes) -> dict:
        return changed({"alg": "ES256", "kid": "ec1", "typ": "at+jwt"}, changes)

    def claims(self, **changes) -> dict:
        return changed({**self.good, "jti": secrets.token_urlsafe(12)}, changes)

    def token(self, header: dict | None = None, key=None, **changes) -> str:
        """Signed by joserfc."""
        payload = json.dumps(self.claims(**changes))
        return jws.serialize_compact(
            header or self.header(), payload, key or self.ec, algorithms=ALGORITHMS
        )

    def by_hand(self, header: dict, payload: bytes, key=None) -> str:
        """ES256 over bytes that no library would let through."""
        signed = f"{b64_json(header)}.{b64(payload)}"
        der = (key or self.ec).private_key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def good_tokens(mint: Mint) -> dict:
    ed_without_alg = {k: v for k, v in mint.ed.as_dict(private=True).items() if k != "alg"}
    return {
        "ok-es256": mint.token(),
        "ok-rs256": mint.token(mint.header(alg="RS256", kid="rsa1"), mint.rsa),
        "ok-eddsa": mint.token(mint.header(alg="EdDSA", kid="ed1"), mint.ed),
        "ok-es256-pyjwt": pyjwt.encode(
            mint.claims(),
            pyjwt.PyJWK(mint.ec.as_dict(private=True)).key,
            "ES256",
            headers={"kid": "ec1", "typ": "at+jwt"},
        ),
        "ok-aud-array": mint.token(aud=["https://other.example.com", mint.audience]),
        "ok-typ-application": mint.token(mint.header(typ="application/at+jwt")),
        "interop-alg-ed25519-rfc9864": mint.token(
            mint.header(alg="Ed25519", kid="ed1"), OKPKey.import_key(ed_without_alg)
        ),
    }


def bad_headers(mint: Mint) -> dict:
    claims = json.dumps(mint.claims()).encode()
    stolen = json.dumps(mint.claims(sub="mallory")).encode()
    confused = f"{b64_json(mint.header(alg='HS256', kid='rsa1'))}.{b64(claims)}"
    secret = mint.rsa.as_pem(private=False)
    embedded = mint.header(jwk=mint.foreign.as_dict(private=False))
    return {
        "bad-alg-none": f"{b64_json(mint.header(alg='none'))}.{b64(claims)}.",
        "bad-alg-none-case": f"{b64_json(mint.header(alg='nOnE'))}.{b64(claims)}.",
        "bad-hs256-with-rsa-pem": f"{confused}.{b64(mac(secret, confused))}",
        "bad-crit-unknown": mint.by_hand(mint.header(crit=["urn:x"], **{"urn:x": True}), claims),
        "bad-b64-false-crit": mint.by_hand(mint.header(crit=["b64"], b64=False), claims),
        "bad-typ-id-token": mint.token(mint.header(typ="JWT"), nonce="n"),
        "bad-typ-dpop": mint.token(mint.header(typ="dpop+jwt")),
        "bad-typ-idjag": mint.token(mint.header(typ="oauth-id-jag+jwt")),
        "bad-typ-logout": mint.token(mint.header(typ="logout+jwt")),
        "bad-typ-missing": mint.token(mint.header(typ=REMOVED)),
        "bad-embedded-jwk": mint.by_hand(embedded, stolen, mint.foreign),
        "bad-jku": mint.by_hand(
            mint.header(jku="https://evil.example.com/jwks"), stolen, mint.foreign
        ),
        "bad-kid-unknown": mint.token(mint.header(kid="nope")),
        "bad-kid-traversal": mint.token(mint.header(kid="../../etc/passwd")),
        "bad-kid-of-other-family": mint.token(mint.header(kid="rsa1")),
        "bad-foreign-key": mint.by_hand(mint.header(), stolen, mint.foreign),
    }


def bad_claims(mint: Mint) -> dict:
    now = mint.now
    plain = json.dumps(mint.claims())
    subject = json.dumps(mint.good["sub"])
    twice_sub = plain.replace(f'"sub": {subject}', f'"sub": "mallory", "sub": {subject}')
    twice_aud = plain.replace('"aud":', '"aud": "https://evil.example.com", "aud":')
    assert plain not in (twice_sub, twice_aud)
    parent = mint.audience.rstrip("/").rsplit("/", 1)[0]
    return {
        "bad-aud-other": mint.token(aud=f"{parent}/other-than-this"),
        "bad-aud-prefix": mint.token(aud=parent),
        "bad-aud-trailing-slash": mint.token(aud=mint.audience + "/"),
        "bad-aud-case": mint.token(aud=mint.audience.swapcase()),
        "bad-aud-missing": mint.token(aud=REMOVED),
        "bad-aud-number": mint.token(aud=7),
        "bad-aud-empty-array": mint.token(aud=[]),
        "bad-iss-slash": mint.token(iss=mint.issuer + "/"),
        "bad-iss-array": mint.token(iss=["https://evil.example.com", mint.issuer]),
        "bad-iss-missing": mint.token(iss=REMOVED),
        "bad-iss-number": mint.token(iss=7),
        "bad-iss-other": mint.token(iss="https://evil.example.com"),
        "bad-exp-past": mint.token(exp=now - HOUR_S),
        "bad-exp-2min-ago": mint.token(exp=now - 120),
        "bad-exp-30s-ago": mint.token(exp=now - 30),
        "bad-exp-missing": mint.token(exp=REMOVED),
        "bad-exp-string": mint.token(exp=str(now + 9_999)),
        "bad-exp-huge-float": mint.token(exp=1e300),
        "bad-exp-null": mint.token(exp=None),
        "bad-nbf-future": mint.token(nbf=now + HOUR_S),
        "bad-iat-future": mint.token(iat=now + HOUR_S),
        "bad-sub-missing": mint.token(sub=REMOVED),
        "bad-sub-empty": mint.token(sub=""),
        "bad-sub-number": mint.token(sub=7),
        "bad-cnf-as-bearer": mint.token(cnf={"jkt": "0" * 43}),
        "bad-dup-claim-sub": mint.by_hand(mint.header(), twice_sub.encode()),
        "bad-dup-claim-aud": mint.by_hand(mint.header(), twice_aud.encode()),
        "bad-claims-array": mint.by_hand(mint.header(), b"[]"),
        "bad-claims-not-utf8": mint.by_hand(mint.header(), plain.encode()[:-1] + b',"x":"\xff"}'),
    }


def bad_encodings(mint: Mint) -> dict:
    good = mint.token()
    header, payload, signature = good.split(".")
    signed = f"{header}.{payload}"
    flipped = "A" if signature[10] != "A" else "B"
    r, s = halves(signature)
    der = mint.ec.private_key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        "bad-sig-bitflip": f"{signed}.{signature[:10]}{flipped}{signature[11:]}",
        "bad-sig-empty": f"{signed}.",
        "bad-sig-zero": f"{signed}.{b64(bytes(64))}",
        "bad-sig-der": f"{signed}.{b64(der)}",
        "bad-payload-swap": f"{header}.{b64_json(mint.claims(sub='mallory'))}.{signature}",
        "bad-padding": f"{header}=.{payload}.{signature}",
        "bad-four-parts": f"{good}.AAAA",
        "bad-json-serialization": json.dumps(
            {"payload": payload, "protected": header, "signature": signature}
        ),
        "malleable-s-negated": f"{signed}.{b64(r + (P256_ORDER - s).to_bytes(32, 'big'))}",
    }


def bad_sizes(mint: Mint) -> dict:
    plain = json.dumps(mint.claims())
    actors = '{"sub":"a","act":' * 200 + '{"sub":"a"}' + "}" * 200
    return {
        "big-200k": mint.token(x="y" * 200_000),
        "big-20k": mint.token(x="y" * 20_000),
        "deep-act-200": mint.by_hand(mint.header(), f'{plain[:-1]}, "act": {actors}}}'.encode()),
        "deep-act-6": mint.token(act=nested_actors(6)),
    }


def nested_actors(depth: int) -> dict:
    actor = {"sub": f"agent-{depth}"}
    return actor if depth == 1 else {**actor, "act": nested_actors(depth - 1)}


def changed(original: dict, changes: dict) -> dict:
    return {k: v for k, v in {**original, **changes}.items() if v is not REMOVED}


def halves(signature: str) -> tuple[bytes, int]:
    raw = base64.urlsafe_b64decode(signature + "==")
    return raw[:32], int.from_bytes(raw[32:], "big")


def mac(secret: bytes, text: str) -> bytes:
    return hmac.new(secret, text.encode(), hashlib.sha256).digest()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64_json(value: dict) -> str:
    return b64(json.dumps(value).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("issuer")
    parser.add_argument("audience")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--scope", default="mcp:call")
    parser.add_argument("--subject", default="alice")
    args = parser.parse_args()

    mint = Mint(args.issuer, args.audience, args.scope, args.subject)
    tokens = {}
    for group in (good_tokens, bad_headers, bad_claims, bad_encodings, bad_sizes):
        tokens |= group(mint)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    (args.out_dir / "jwks.json").write_text(json.dumps(mint.jwks(), indent=1))
    (args.out_dir / "tokens.json").write_text(json.dumps(tokens, indent=1))
    print(f"{len(tokens)} tokens")


if __name__ == "__main__":
    main()
