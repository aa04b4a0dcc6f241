"""A Lightning wallet behind a URL: POST {WALLET_URL}/pay {"invoice"} -> {"preimage"}."""

import os

import httpx
from l402_requests import WalletBase


def pay(invoice: str) -> str:
    response = httpx.post(
        os.environ["WALLET_URL"] + "/pay", json={"invoice": invoice}, timeout=30
    )
    response.raise_for_status()
    return response.json()["preimage"]


class UrlWallet(WalletBase):
    async def pay_invoice(self, bolt11: str) -> str:
        return pay(bolt11)


class SyncUrlWallet:
    """The same for bolthub, which wants a plain method."""

    def pay_invoice(self, bolt11: str) -> str:
        return pay(bolt11)
