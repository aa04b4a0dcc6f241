"""PyPI `pymacaroons` as a mint, a holder and a verifier of macaroons in the second binary form.

Reads JSON from standard input: [{op: "mint", root_key, identifier, location, caveats} |
{op: "attenuate", macaroon, caveats} | {op: "verify", macaroon, root_key, caveats}], bytes in hex,
macaroons in base64. Prints a list: macaroons and signatures, or whether it verified. With
`"version": 1` a minted macaroon is of the first form.
"""

import base64
import json
import sys

from pymacaroons import MACAROON_V1, MACAROON_V2, Macaroon, Verifier
from pymacaroons.exceptions import MacaroonException


def said(macaroon: Macaroon) -> dict:
    text = macaroon.serialize()
    padded = text + "=" * (-len(text) % 4)
    binary = base64.b64encode(base64.urlsafe_b64decode(padded)).decode()
    return {"macaroon": binary, "signature": macaroon.signature}


def read(text: str) -> Macaroon:
    return Macaroon.deserialize(base64.urlsafe_b64encode(base64.b64decode(text)).decode())


def narrowed(macaroon: Macaroon, caveats: list) -> Macaroon:
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    return macaroon


def mint(job: dict) -> dict:
    version = MACAROON_V1 if job.get("version") == 1 else MACAROON_V2
    identifier = bytes.fromhex(job["identifier"])
    macaroon = Macaroon(
        version=version,
        location=job.get("location") or "",
        identifier=identifier if version == MACAROON_V2 else identifier.hex(),
        key=bytes.fromhex(job["root_key"]),
    )
    return said(narrowed(macaroon, job["caveats"]))


def attenuate(job: dict) -> dict:
    return said(narrowed(read(job["macaroon"]), job["caveats"]))


def verify(job: dict) -> bool:
    verifier = Verifier()
    for caveat in job["caveats"]:
        verifier.satisfy_exact(caveat)
    try:
        return verifier.verify(read(job["macaroon"]), bytes.fromhex(job["root_key"]))
    except MacaroonException:
        return False


if __name__ == "__main__":
    operations = {"mint": mint, "attenuate": attenuate, "verify": verify}
    json.dump([operations[job["op"]](job) for job in json.load(sys.stdin)], sys.stdout)
