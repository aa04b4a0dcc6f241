// The reference facilitator (npm @x402/core with @x402/evm) behind HTTP, settling on the test
// chain with a key of its own, and able to misbehave when a test says so.

import { createServer } from 'node:http';

import { x402Facilitator } from '@x402/core/facilitator';
import { toFacilitatorEvmSigner } from '@x402/evm';
import { registerExactEvmScheme } from '@x402/evm/exact/facilitator';
import { createWalletClient, defineChain, http, publicActions } from 'viem';
import { privateKeyToAccount } from 'viem/accounts';

// Another of anvil's published development keys: one signing key per facilitator.
const KEY = '0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a';

/**
 * @returns {url, asked, misbehave(change), stop()}. `asked` grows by {endpoint, body, answer,
 * authorization}.
 * `misbehave(change)`: `change(endpoint, answer)` gives {status, body} in place of the honest
 * answer, which has taken its effect; without an argument it is honest again.
 */
export async function startFacilitator(chain) {
  const facilitator = scheme(chain);
  const asked = [];
  const honest = (endpoint, answer) => ({ status: 200, body: answer });
  let change = honest;
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const part of request.setEncoding('utf8')) text += part;
    const endpoint = request.url.split('/').at(-1);
    const body = text ? JSON.parse(text) : undefined;
    const answer = await answerOf(facilitator, endpoint, body);
    const { authorization } = request.headers;
    asked.push({ endpoint, body, answer, authorization });
    const { status, body: said } = change(endpoint, answer);
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(said));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/facilitator`,
    asked,
    misbehave: (next = honest) => (change = next),
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function answerOf(facilitator, endpoint, body) {
  const { paymentPayload, paymentRequirements } = body ?? {};
  try {
    switch (endpoint) {
      case 'verify':
        return await facilitator.verify(paymentPayload, paymentRequirements);
      case 'settle':
        return await facilitator.settle(paymentPayload, paymentRequirements);
      default:
        return facilitator.getSupported();
    }
  } catch (error) {
    return {
      isValid: false,
      success: false,
      errorReason: String(error),
      transaction: '',
      network: '',
    };
  }
}

function scheme({ rpc, chainId, network }) {
  const account = privateKeyToAccount(KEY);
  const chain = defineChain({
    id: chainId,
    name: 'anvil',
    nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
    rpcUrls: { default: { http: [rpc] } },
  });
  const viem = createWalletClient({
    account,
    chain,
    transport: http(rpc),
    pollingInterval: 50,
  }).extend(publicActions);
  const signer = toFacilitatorEvmSigner({
    address: account.address,
    getCode: (args) => viem.getCode(args),
    readContract: (args) => viem.readContract({ ...args, args: args.args ?? [] }),
    verifyTypedData: (args) => viem.verifyTypedData(args),
    writeContract: (args) => viem.writeContract({ ...args, args: args.args ?? [] }),
    sendTransaction: (args) => viem.sendTransaction(args),
    waitForTransactionReceipt: (args) => viem.waitForTransactionReceipt(args),
  });
  const facilitator = new x402Facilitator();
  registerExactEvmScheme(facilitator, { signer, networks: network });
  return facilitator;
}
