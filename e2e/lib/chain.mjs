// A chain of our own: anvil with the chain id of Base Sepolia and an EIP-3009 token at the address
// that stock x402 clients know as USDC there.

import { createRequire } from 'node:module';
import path from 'node:path';
import {
  createPublicClient, createTestClient, createWalletClient, defineChain, domainSeparator, http,
} from 'viem';
import { privateKeyToAccount } from 'viem/accounts';

import { compiledContracts } from './contracts.mjs';
import { freePort, start, until } from './process.mjs';

export const CHAIN_ID = 84532;
export const NETWORK = `eip155:${CHAIN_ID}`;
export const USDC = '0x036CbD53842c5426634e7929541eC2318f3dCF7e';
const MULTICALL3 = '0xcA11bde05977b3631167028862bE2a173976CA11';

// anvil's published development keys: worthless on any other chain.
const DEPLOYER = '0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80';
const FACILITATOR = '0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d';
const PAYER = '0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a';
const MERCHANT = '0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6';

/** The EIP-712 domain that authorizations of the token are signed under. */
export const usdcDomain = {
  name: 'USDC',
  version: '2',
  chainId: CHAIN_ID,
  verifyingContract: USDC,
};

/**
 * Starts the chain. `fund_minor` is what the payer holds at first, in millionths of a USDC.
 * @returns {rpc, chainId, network, usdc, payer, merchant, facilitator: {key, address}, ...}
 */
export async function startChain({ port, fund_minor = 100_000_000n } = {}) {
  port ??= await freePort();
  const rpc = `http://127.0.0.1:${port}`;
  const anvil = start(anvilBinary(), [
    '--host', '127.0.0.1', '--port', String(port), '--chain-id', String(CHAIN_ID), '--silent',
  ]);
  try {
    const clients = connect(rpc);
    await until('anvil answers', () => clients.read.getChainId(), { part: anvil });
    const token = await placeContracts(clients);
    const chain = {
      rpc,
      port,
      chainId: CHAIN_ID,
      network: NETWORK,
      usdc: USDC,
      payer: party(PAYER),
      merchant: party(MERCHANT),
      facilitator: party(FACILITATOR),
      ...operations(clients, token),
      stop: () => anvil.stop(),
      kill9: () => anvil.kill9(),
    };
    await chain.mint(chain.payer.address, fund_minor);
    return chain;
  } catch (error) {
    await anvil.stop();
    throw error;
  }
}

function operations({ read, test, walletOf }, abi) {
  const token = { address: USDC, abi };
  const send = async (key, functionName, args) => {
    const hash = await walletOf(key).writeContract({ ...token, functionName, args });
    const receipt = await read.waitForTransactionReceipt({ hash, pollingInterval: 50 });
    if (receipt.status !== 'success') throw new Error(`${functionName} reverted in ${hash}`);
    return receipt;
  };
  const view = (functionName, args) => read.readContract({ ...token, functionName, args });
  const balance = (address) => view('balanceOf', [address]);
  return {
    /** viem clients, for what is not here. */
    read,
    test,
    abi,
    balance,
    async balances() {
      const [payer, merchant] = await Promise.all(
        [PAYER, MERCHANT].map((key) => balance(party(key).address)),
      );
      return { payer, merchant };
    },
    mint: (address, value_minor) => send(DEPLOYER, 'mint', [address, value_minor]),
    /** Every event of the token, oldest first: {name, args, transaction, block}. */
    async events(eventName) {
      const logs = await read.getContractEvents({ ...token, eventName, fromBlock: 0n });
      return logs.map((log) => ({
        name: log.eventName,
        args: log.args,
        transaction: log.transactionHash,
        block: log.blockNumber,
      }));
    },
    /** Whether the authorization's nonce is used or cancelled. */
    authorizationState: (from, nonce) => view('authorizationState', [from, nonce]),
    /** Submits an x402 `exact` payload ({authorization, signature}) as a facilitator would. */
    settle({ authorization: a, signature }, key = FACILITATOR) {
      const values = [a.value, a.validAfter, a.validBefore].map(BigInt);
      return send(key, 'transferWithAuthorization', [a.from, a.to, ...values, a.nonce, signature]);
    },
    /** The payer takes a signed authorization back before it is settled. */
    async cancel(nonce, key = PAYER) {
      const account = privateKeyToAccount(key);
      const signature = await account.signTypedData({
        domain: usdcDomain,
        types: {
          CancelAuthorization: [
            { name: 'authorizer', type: 'address' },
            { name: 'nonce', type: 'bytes32' },
          ],
        },
        primaryType: 'CancelAuthorization',
        message: { authorizer: account.address, nonce },
      });
      return send(FACILITATOR, 'cancelAuthorization', [account.address, nonce, signature]);
    },
    /** With false, transactions wait unmined until `mine()`: a settlement that stays pending. */
    automine: (enabled) => test.setAutomine(enabled),
    mine: (blocks = 1) => test.mine({ blocks }),
  };
}

// Deploys each contract and copies its code to the address where real chains have it. The copy
// starts with empty storage, which the contracts allow for.
async function placeContracts({ read, test, walletOf }) {
  const { TestUSDC, Multicall3 } = compiledContracts();
  for (const [contract, address] of [[TestUSDC, USDC], [Multicall3, MULTICALL3]]) {
    const hash = await walletOf(DEPLOYER).deployContract(contract);
    const deployed = await read.waitForTransactionReceipt({ hash, pollingInterval: 50 });
    const bytecode = await read.getCode({ address: deployed.contractAddress });
    await test.setCode({ address, bytecode });
  }
  const separator = await read.readContract({
    address: USDC,
    abi: TestUSDC.abi,
    functionName: 'DOMAIN_SEPARATOR',
  });
  if (separator !== domainSeparator({ domain: usdcDomain })) {
    throw new Error('the token computes another EIP-712 domain separator than its signers');
  }
  return TestUSDC.abi;
}

function connect(rpc) {
  const chain = defineChain({
    id: CHAIN_ID,
    name: 'anvil',
    nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
    rpcUrls: { default: { http: [rpc] } },
  });
  const transport = http(rpc, { retryCount: 0 });
  return {
    read: createPublicClient({ chain, transport, cacheTime: 0 }),
    test: createTestClient({ chain, transport, mode: 'anvil' }),
    walletOf: (key) => createWalletClient({ account: privateKeyToAccount(key), chain, transport }),
  };
}

function party(key) {
  return { key, address: privateKeyToAccount(key).address };
}

/** The chain's binary: ANVIL, or the one that npm installs on Linux on amd64. */
export function anvilBinary() {
  if (process.env.ANVIL) return process.env.ANVIL;
  const manifest = createRequire(import.meta.url).resolve(
    '@foundry-rs/anvil-linux-amd64/package.json',
  );
  return path.join(path.dirname(manifest), 'bin', 'anvil');
}
