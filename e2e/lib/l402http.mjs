// The stock L402 payer (npm @getalby/lightning-tools) with a wallet behind a URL.

import { fetch402, fetchWithL402 } from '@getalby/lightning-tools/402';

/** A wallet that has `{walletUrl}/pay` pay: {"invoice"} -> {"preimage"}. Counts what it paid. */
export function walletAt(walletUrl) {
  const paid = [];
  return {
    paid,
    async payInvoice({ invoice }) {
      const response = await fetch(`${walletUrl}/pay`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ invoice }),
      });
      if (!response.ok) throw new Error(`wallet: ${response.status} ${await response.text()}`);
      paid.push(invoice);
      return response.json();
    },
  };
}

/** fetchWithL402 of the stock client: L402 and nothing else. */
export const fetchL402 = (wallet, url, init = {}, options = {}) =>
  fetchWithL402(url, ownCopy(init), { wallet, ...options });

/** fetch402 of the stock client: picks the rail from whatever the 402 offers. */
export const fetchAnyRail = (wallet, url, init = {}, options = {}) =>
  fetch402(url, ownCopy(init), { wallet, ...options });

// The stock client replaces the headers in the caller's own object by ones with its credential:
// reused for another request, that object would carry it along.
const ownCopy = (init) => ({ ...init });
