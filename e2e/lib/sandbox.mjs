// The gateway's own play-money parts, started by its command: a Lightning node with a wallet, a
// facilitator, an issuer and an MCP server on the Rust SDK, which speaks both eras.

import { gatewayBinary } from './gateway.mjs';
import { start, until } from './process.mjs';

/** @returns {lightning, facilitator, issuer, server, pay(invoice), balances(), stop()} */
export async function startSandbox() {
  const ports = ['lightning', 'facilitator', 'issuer', 'server'].flatMap((part) => [
    `--${part}`,
    '0',
  ]);
  const part = start(gatewayBinary, ['sandbox', ...ports]);
  const urls = await until('the sandbox says where it is', () => JSON.parse(part.stdout()), {
    part,
  });
  return {
    ...urls,
    async balances() {
      return (await fetch(`${urls.lightning}/balances`)).json();
    },
    async pay(invoice) {
      const response = await fetch(`${urls.lightning}/pay`, {
        method: 'POST',
        body: JSON.stringify({ invoice }),
      });
      const answer = await response.json();
      if (!response.ok) throw new Error(`the wallet: ${answer.error}`);
      return answer.preimage;
    },
    stop: () => part.stop(),
  };
}
