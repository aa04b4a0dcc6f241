/**
 * Calls a tool and pays for it: `example.ts URL TOOL ARGUMENTS`, over the MCP SDK.
 *
 * `LIGHTNING` is the URL of a wallet (`POST URL/pay {"invoice"}` gives `{"preimage"}`), `EVM_KEY`
 * the private key of an account; one of them may be missing. `TOKEN`, if set, is the access token.
 */

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { privateKeyToAccount } from 'viem/accounts';

import { NotPaid, countersign } from './countersign-fetch.js';

const { EVM_KEY, LIGHTNING, STATE, TOKEN } = process.env;
const [url, name, args] = process.argv.slice(2) as [string, string, string];

async function payInvoice(invoice: string): Promise<string> {
  const body = JSON.stringify({ invoice });
  const answer = await fetch(`${LIGHTNING}/pay`, { method: 'POST', body });
  if (!answer.ok) throw new NotPaid(await answer.text());
  return ((await answer.json()) as { preimage: string }).preimage;
}

const paying = countersign({
  account: EVM_KEY ? privateKeyToAccount(EVM_KEY as `0x${string}`) : undefined,
  payInvoice: LIGHTNING ? payInvoice : undefined,
  perCall: { USDC: 100_000n, BTC: 20_000n }, // ten cents, twenty sat
  state: STATE,
  say: (text) => console.error(text),
});
const headers = TOKEN ? { authorization: `Bearer ${TOKEN}` } : undefined;
const client = new Client({ name: 'example', version: '1.0.0' });
await client.connect(
  new StreamableHTTPClientTransport(new URL(url), { fetch: paying, requestInit: { headers } }),
);
console.log(JSON.stringify(await client.callTool({ name, arguments: JSON.parse(args) })));
await client.close();
