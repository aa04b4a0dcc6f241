// Stock x402 payers (npm @x402/fetch, @x402/core, @x402/evm), and authorizations signed by hand for
// what no stock client would send.

import { randomBytes } from 'node:crypto';

import { registerExactEvmScheme } from '@x402/evm/exact/client';
import { wrapFetchWithPayment, x402Client } from '@x402/fetch';
import { privateKeyToAccount } from 'viem/accounts';

import { usdcDomain } from './chain.mjs';

/** The stock client that signs with `key`. */
export function payer(key) {
  const client = new x402Client();
  registerExactEvmScheme(client, { signer: privateKeyToAccount(key) });
  return client;
}

/** A fetch that pays 402 answers: @x402/fetch over `fetch`. */
export function payingFetch(key, inner = fetch) {
  return wrapFetchWithPayment(inner, payer(key));
}

/**
 * One tool call over a connected MCP client of either generation, paid as the x402 MCP transport
 * says: the challenge read from structuredContent or the first text, the payment an object in
 * `_meta`. @returns {result, challenge?, payment?}
 */
export async function callPaid(client, key, params) {
  const first = await client.callTool(params);
  const challenge = challengeOf(first);
  if (!challenge) return { result: first };
  const payment = await payer(key).createPaymentPayload(challenge);
  const result = await client.callTool({
    ...params,
    _meta: { ...params._meta, 'x402/payment': payment },
  });
  return { result, challenge, payment };
}

/** The PaymentRequired of a tool result, if it is one. */
export function challengeOf(result) {
  if (!result.isError) return undefined;
  if (Array.isArray(result.structuredContent?.accepts)) return result.structuredContent;
  try {
    const parsed = JSON.parse(result.content?.[0]?.text);
    return Array.isArray(parsed.accepts) ? parsed : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Signs an EIP-3009 transfer with any values at all: {authorization, signature}, the `payload` of
 * an x402 `exact` payment. Times are seconds since the epoch.
 */
export async function signTransfer(key, {
  to,
  value,
  validAfter = 0,
  validBefore = Math.floor(Date.now() / 1000) + 60,
  nonce = `0x${randomBytes(32).toString('hex')}`,
  domain = usdcDomain,
}) {
  const account = privateKeyToAccount(key);
  const authorization = {
    from: account.address,
    to,
    value: String(value),
    validAfter: String(validAfter),
    validBefore: String(validBefore),
    nonce,
  };
  const signature = await account.signTypedData({
    domain,
    types: transferTypes,
    primaryType: 'TransferWithAuthorization',
    message: {
      ...authorization,
      value: BigInt(value),
      validAfter: BigInt(validAfter),
      validBefore: BigInt(validBefore),
    },
  });
  return { authorization, signature };
}

const transferTypes = {
  TransferWithAuthorization: [
    { name: 'from', type: 'address' },
    { name: 'to', type: 'address' },
    { name: 'value', type: 'uint256' },
    { name: 'validAfter', type: 'uint256' },
    { name: 'validBefore', type: 'uint256' },
    { name: 'nonce', type: 'bytes32' },
  ],
};
