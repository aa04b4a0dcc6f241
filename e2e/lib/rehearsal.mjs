// Stand-ins for the gateway and for a wallet, just real enough that every stock client takes its
// whole path. They check nothing: they show that the clients work and record what they send.

import { createServer } from 'node:http';

import { CHAIN_ID, NETWORK, USDC } from './chain.mjs';
import { decodeHeader } from './wire.mjs';

export const PREIMAGE = '07'.repeat(32);
export const MACAROON = 'AgJCAACrq6ur';
// The first example of BOLT 11 with an amount: 250,000 sat.
export const INVOICE =
  'lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqw' +
  'zqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy' +
  '8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vg' +
  'pfna3rh';

/** A wallet that pays everything: POST /pay {"invoice"} -> {"preimage"}. */
export function startWallet() {
  return serve(({ body, answer }) => answer(200, { preimage: PREIMAGE, invoice: body.invoice }));
}

/** GET /paid: sold over L402 or x402, whichever `rail` says. */
export function startPaidHttp(rail, payTo) {
  return serve(({ request, answer }) => {
    const { authorization = '', 'payment-signature': signature } = request.headers;
    if (rail === 'l402' && /^L402 /.test(authorization)) return answer(200, { authorization });
    if (rail === 'x402' && signature) return answer(200, { paid: decodeHeader(signature) });
    const challenge = Buffer.from(JSON.stringify(paymentRequired(payTo))).toString('base64');
    const headers = {
      l402: {
        'www-authenticate':
          `L402 macaroon="${MACAROON}", invoice="${INVOICE}", version="0", token="${MACAROON}"`,
      },
      x402: { 'payment-required': challenge },
    }[rail];
    return answer(402, { error: 'payment_required' }, headers);
  });
}

/** An MCP server with one tool, `paid`, that wants x402 or L402 in `_meta` and echoes it. */
export function startPaidMcp(payTo) {
  return serve(({ request, body, answer }) => {
    if (request.method !== 'POST') return answer(405, {});
    if (body.id === undefined) return answer(202, undefined);
    const results = {
      initialize: () => ({
        protocolVersion: body.params.protocolVersion,
        capabilities: { tools: {} },
        serverInfo: { name: 'rehearsal', version: '1.0.0' },
      }),
      'tools/list': () => ({ tools: [{ name: 'paid', inputSchema: { type: 'object' } }] }),
      'tools/call': () => paidCall(body.params._meta ?? {}, payTo),
    };
    const result = results[body.method]?.();
    const error = { code: -32601, message: `no method ${body.method}` };
    return answer(200, { jsonrpc: '2.0', id: body.id, ...(result ? { result } : { error }) });
  });
}

function paidCall(meta, payTo) {
  const payment = meta['x402/payment'] ?? meta['ai.bolthub/payment'];
  if (payment) {
    return {
      content: [{ type: 'text', text: JSON.stringify(payment) }],
      _meta: { 'x402/payment-response': { success: true, transaction: '0x00', network: NETWORK } },
    };
  }
  const challenge = paymentRequired(payTo);
  const expiresAt = Date.now() + 60_000;
  return {
    isError: true,
    structuredContent: challenge,
    content: [{ type: 'text', text: JSON.stringify(challenge) }],
    _meta: {
      'x402/error': challenge,
      'ai.bolthub/payment': {
        status: 'payment_required',
        version: '0.1',
        price: { amount: 250_000, asset: 'sat' },
        resource: 'mcp://tool/paid',
        offers: [{
          scheme: 'l402',
          amount: 250_000,
          asset: 'sat',
          token: MACAROON,
          invoice: INVOICE,
          expiresAt,
        }],
        expiresAt,
      },
    },
  };
}

/** One x402 v2 offer of a cent. */
export function paymentRequired(payTo) {
  return {
    x402Version: 2,
    error: 'Payment required',
    resource: { url: 'mcp://tool/paid', description: 'paid', mimeType: 'application/json' },
    accepts: [{
      scheme: 'exact',
      network: NETWORK,
      amount: '10000',
      asset: USDC,
      payTo,
      maxTimeoutSeconds: 60,
      extra: { name: 'USDC', version: '2', chainId: CHAIN_ID, challenge: 'ch_1' },
    }],
    extensions: { 'x-challenge': { info: { id: 'ch_1' }, schema: { type: 'object' } } },
  };
}

// A JSON server on a free loopback port; `requests` keeps what was asked of it.
async function serve(respond) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const part of request.setEncoding('utf8')) text += part;
    const body = text ? JSON.parse(text) : undefined;
    requests.push({ method: request.method, url: request.url, headers: request.headers, body });
    respond({
      request,
      body,
      answer(status, value, headers = {}) {
        response.writeHead(status, { 'content-type': 'application/json', ...headers });
        response.end(value === undefined ? undefined : JSON.stringify(value));
      },
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    requests,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
