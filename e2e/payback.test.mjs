// What was taken over x402 for a call that did not run goes back from the treasury, on a real chain,
// once: over a death between any two steps, with a transaction that waits, with an empty purse; and
// nobody pays by hand what the gateway pays.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { privateKeyToAccount } from 'viem/accounts';

import { startChain } from './lib/chain.mjs';
import { Parts, assets, builtinFacilitator, facilitatorEnv } from './lib/gate.mjs';
import { startGateway, withLives } from './lib/gateway.mjs';
import { until } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import {
  MERCHANT as OUTSIDE, accounts, admin, callTool, calls, configBefore, published, startParts,
  unbalanced, verifyLog, x402Challenge,
} from './lib/rig.mjs';
import { startOwnServer } from './lib/tap.mjs';
import { payer, signTransfer } from './lib/x402http.mjs';

const CENT = 10_000n;
const POOR = `0x${'31'.repeat(32)}`;
const parts = new Parts();
let chain, own;

before(() =>
  parts.starting(async () => {
    chain = await parts.keep('chain', startChain());
    own = await parts.keep('own', startOwnServer({
      answer: () => '{"content":[{"type":"text","text":"no luck"}],"isError":true}',
    }));
  }),
);
after(() => parts.stop());

/** A gateway whose treasury is the merchant's own wallet; what is taken comes out of it again. */
const configured = ({ treasury = {}, rails = {}, ...more } = {}) => ({
  assets,
  treasuries: { back: { wallet: 'env:E2E_TREASURY', per_call: '0.05 USD', per_day: '5 USD', ...treasury } },
  rails: {
    x402: { pay_to: chain.merchant.address, facilitator: builtinFacilitator(chain) },
    refund_from: 'back',
    ...rails,
  },
  audit: { checkpoint: '100ms' },
  servers: {
    own: {
      upstream: own.url,
      relay: { anonymous: true },
      tools: {
        get_it: { price: '0.01 USDC', identity: 'anonymous' },
        get_dear: { price: '0.20 USDC', identity: 'anonymous' },
      },
    },
  },
  ...more,
});

/** Lives of one gateway on one directory. */
const withDirectory = (act) => withLives(
  ({ dir, port }, { env = {}, config = configured(), key = chain.merchant.key } = {}) => startGateway({
    config: ({ port }) => ({ listen: `127.0.0.1:${port}`, ...config }),
    dir,
    port,
    env: { ...facilitatorEnv(chain), E2E_TREASURY: key, ...env },
  }),
  act,
);

/** Pays for a call that fails: the money was taken, and is owed back. */
async function failing(gateway, tool = 'get_it', { args = { of: String(Math.random()) }, meta } = {}) {
  const challenge = x402Challenge(await callTool(gateway, 'own', tool, args));
  const payment = await payer(chain.payer.key).createPaymentPayload(challenge);
  const headers = { 'payment-signature': Buffer.from(JSON.stringify(payment)).toString('base64') };
  const answer = await callTool(gateway, 'own', tool, args, { headers, meta });
  assert.equal(answer.result?._meta['countersign/charged'], 'yes', answer.text);
}

const stateOf = async (gateway) =>
  (await calls(gateway)).filter(({ state }) => state !== 'refused').map(({ state }) => state);
const inState = (gateway, wanted, count = 1) =>
  until(`${count} ${wanted}`, async () => {
    const states = await stateOf(gateway);
    return states.length === count && states.every((state) => state === wanted);
  }, { timeout_ms: 60_000 });
const sent = async (from) =>
  (await chain.events('Transfer')).filter(({ args }) => args.from === from).length;

/** The books balance, nothing is owed, and the log verifies. */
async function isWhole(gateway) {
  const owed = (await accounts(gateway)).filter(({ account }) => account === 'refunds_due');
  assert.ok(owed.every(({ posted }) => posted === 0n), JSON.stringify(owed, (_, v) => String(v)));
  assert.deepEqual(await unbalanced(gateway), []);
  await published(gateway);
  const { code, findings } = await verifyLog(gateway);
  assert.deepEqual([code, findings], [0, []]);
}

/** As if a transfer that was written down and never sent had waited until its time was over. */
async function grownOld(dir, key) {
  const database = path.join(dir, 'data', 'countersign.db');
  const ask = (sql, values) => pythonJson('sql.py', { job: { database, sql, values } });
  const [[text]] = await ask('SELECT payload FROM paybacks');
  const payment = JSON.parse(text);
  const { to, value, nonce } = payment.payload.authorization;
  const validBefore = Math.floor(Date.now() / 1000) - 3_600;
  payment.payload = await signTransfer(key, { to, value, nonce, validBefore });
  await ask('UPDATE paybacks SET payload = ?', [JSON.stringify(payment)]);
  return nonce;
}

/** A life that ends at this point, by itself. */
async function dies(starting) {
  const gateway = await starting.catch(() => null);
  if (gateway) await until('it dies', () => !gateway.isRunning(), { timeout_ms: 30_000 });
}

describe('money for a call that did not run', { concurrency: 1 }, () => {
  test('goes back to its payer by itself, once', () =>
    withDirectory(async (live) => {
      const gateway = await live();
      const [start, before] = [await chain.balances(), await sent(chain.merchant.address)];
      await failing(gateway);
      await inState(gateway, 'refunded');
      assert.deepEqual(await chain.balances(), start);
      assert.equal((await sent(chain.merchant.address)) - before, 1);
      const { call } = (await calls(gateway)).find(({ state }) => state === 'refunded');
      const { log } = await gateway.cli('calls', 'show', call);
      const { transaction } = log.find(({ kind }) => kind === 'refund').detail;
      const [last] = (await chain.events('Transfer')).slice(-1);
      assert.equal(transaction, last.transaction, 'the record names the transaction');
      await isWhole(gateway);
      await sleep(6_000);
      assert.equal((await sent(chain.merchant.address)) - before, 1, 'and not again');
    }));

  for (const point of ['refund.intended', 'refund.paid', 'refund.booked']) {
    test(`a death at ${point} pays it neither twice nor never`, () =>
      withDirectory(async (live) => {
        const [start, before] = [await chain.balances(), await sent(chain.merchant.address)];
        // Its own wallet pays nothing yet: the answer leaves before the death.
        const first = await live({ config: configured({ rails: { refund_from: undefined } }) });
        await failing(first);
        await first.kill9();
        await dies(live({ env: { COUNTERSIGN_FAILPOINT: point } }));
        const gateway = await live();
        await inState(gateway, 'refunded');
        assert.deepEqual(await chain.balances(), start);
        assert.equal((await sent(chain.merchant.address)) - before, 1);
        await isWhole(gateway);
      }));
  }

  test('a transfer whose time is over is signed anew, under the same nonce', () =>
    withDirectory(async (live) => {
      const start = await chain.balances();
      const first = await live({ config: configured({ rails: { refund_from: undefined } }) });
      await failing(first);
      await first.kill9();
      await dies(live({ env: { COUNTERSIGN_FAILPOINT: 'refund.intended' } }));
      const nonce = await grownOld(first.dir, chain.merchant.key);
      const gateway = await live();
      await inState(gateway, 'refunded');
      assert.deepEqual(await chain.balances(), start);
      assert.equal(await chain.authorizationState(chain.merchant.address, nonce), true);
      await isWhole(gateway);
    }));

  test('a transaction that waits is waited for, over a death, and not sent twice', () =>
    withDirectory(async (live) => {
      const [start, before] = [await chain.balances(), await sent(chain.merchant.address)];
      const first = await live({ config: configured({ rails: { refund_from: undefined } }) });
      await failing(first);
      await first.kill9();
      await chain.automine(false);
      const second = await live();
      await until('the transfer waits', async () =>
        (await chain.test.getTxpoolStatus()).pending > 0, { timeout_ms: 30_000 });
      await second.kill9();
      const gateway = await live();
      await sleep(6_000);
      assert.deepEqual(await stateOf(gateway), ['refund_due']);
      await chain.automine(true);
      await chain.mine();
      await inState(gateway, 'refunded');
      assert.deepEqual(await chain.balances(), start);
      assert.equal((await sent(chain.merchant.address)) - before, 1);
      await isWhole(gateway);
    }));

  test('what was begun is not sent once a person takes it over', () =>
    withDirectory(async (live) => {
      const before = await sent(chain.merchant.address);
      const byHand = configured({ rails: { refund_from: undefined } });
      const first = await live({ config: byHand });
      await failing(first);
      await first.kill9();
      await dies(live({ env: { COUNTERSIGN_FAILPOINT: 'refund.intended' } }));
      const gateway = await live({ config: byHand });
      await sleep(8_000);
      assert.deepEqual(await stateOf(gateway), ['refund_due']);
      assert.equal((await sent(chain.merchant.address)) - before, 0, 'the treasury is full, and sends nothing');
      const { items: [owed] } = await gateway.cli('ledger', 'refunds');
      await gateway.cli('ledger', 'refunded', owed.call, '--reference', '0x3');
      await inState(gateway, 'refunded');
      await isWhole(gateway);
    }));

  test('an empty purse pays when it is filled', () =>
    withDirectory(async (live) => {
      const gateway = await live({ key: POOR });
      const start = await chain.balance(chain.payer.address);
      await failing(gateway);
      await sleep(7_000);
      assert.deepEqual(await stateOf(gateway), ['refund_due']);
      await chain.mint(privateKeyToAccount(POOR).address, CENT);
      await inState(gateway, 'refunded');
      assert.equal(await chain.balance(chain.payer.address), start);
      await isWhole(gateway);
    }));

  test('is not paid by hand too; what the treasury does not pay is', () =>
    withDirectory(async (live) => {
      // Its purse is empty, so that what it pays stays to be looked at.
      const gateway = await live({ key: `0x${'32'.repeat(32)}` });
      await failing(gateway);
      await failing(gateway, 'get_dear');
      const { items } = await gateway.cli('ledger', 'refunds');
      const by = Object.fromEntries(items.map(({ amount, by, call }) => [amount, { by, call }]));
      assert.deepEqual([by['0.01 USDC'].by, by['0.2 USDC'].by], ['gateway', 'operator']);
      const book = (call) =>
        admin(gateway, `/v1/ledger/refunds/${call}`, { method: 'POST', body: { reference: '0x1' } });
      const refused = await book(by['0.01 USDC'].call);
      assert.deepEqual([refused.status, refused.body.code], [409, 'ADM-003']);
      assert.match(refused.body.detail, /the gateway pays this back by itself/);
      const { code, stderr } = await gateway.cliRaw('ledger', 'refunded', by['0.01 USDC'].call, '--reference', '0x1');
      assert.notEqual(code, 0);
      assert.match(stderr, /the gateway pays this back by itself/);
      assert.equal((await book(by['0.2 USDC'].call)).status, 200, 'above per_call it is for a person');
      assert.match((await gateway.cliRaw('check')).stdout, /pays back x402 payments for calls that did not run/);
      await gateway.stop();
      // Whoever takes it over says so in the configuration.
      const without = await live({ config: configured({ rails: { refund_from: undefined } }) });
      assert.equal((await without.cli('ledger', 'refunds')).items[0].by, 'operator');
      await without.cli('ledger', 'refunded', by['0.01 USDC'].call, '--reference', '0x2');
      await isWhole(without);
    }));

  test('above what the treasury may pay in a day waits', () =>
    withDirectory(async (live) => {
      const gateway = await live({ config: configured({ treasury: { per_call: '0.01 USD', per_day: '0.02 USD' } }) });
      const before = await sent(chain.merchant.address);
      for (let at = 0; at < 3; at++) await failing(gateway);
      await until('two are paid', async () =>
        (await stateOf(gateway)).filter((state) => state === 'refunded').length === 2, { timeout_ms: 60_000 });
      await sleep(6_000);
      assert.deepEqual((await stateOf(gateway)).sort(), ['refund_due', 'refunded', 'refunded']);
      assert.equal((await sent(chain.merchant.address)) - before, 2);
      const { items } = await gateway.cli('ledger', 'refunds');
      assert.deepEqual(items.map(({ by }) => by), ['gateway'], 'it has not given up');
    }));
});

test('the member of an invoice is no part of the call, and reaches no server', () =>
  withDirectory(async (live) => {
    const gateway = await live();
    await failing(gateway, 'get_it', { meta: { 'countersign/refund-invoice': 'lnbcrt1' } });
    const { params } = own.seen.filter(({ message }) => message?.method === 'tools/call').at(-1).message;
    assert.deepEqual(Object.keys(params._meta).filter((key) => key.startsWith('countersign/')), []);
    await inState(gateway, 'refunded');
  }));

describe('with a facilitator whose word is all there is', { concurrency: 1 }, () => {
  /** A call that is owed back, before the sandbox; `act` gets a way to start lives that pay. */
  async function beforeSandbox(act) {
    const sandbox = await startParts();
    const tools = { get_it: { price: '0.01 USDC', identity: 'anonymous' } };
    const base = configBefore(sandbox, {
      servers: { own: { upstream: own.url, tools } },
      treasuries: { back: { wallet: 'env:E2E_TREASURY', per_call: '0.05 USD', per_day: '5 USD' } },
    });
    const config = (rails) => ({ port }) => {
      const whole = base({ port });
      return { ...whole, rails: { ...whole.rails, ...rails } };
    };
    let dir;
    const begin = (at, rails, env = {}) => {
      ({ dir } = at);
      return startGateway({ config: config(rails), ...at, env: { E2E_TREASURY: POOR, ...env } });
    };
    const whole = async (live) => {
      const first = await live({});
      await failing(first);
      await first.kill9();
      assert.equal(await sandbox.settled(), 1);
      await act({ sandbox, dir, live: (env) => live({ refund_from: 'back' }, env) });
      const gateway = await live({ refund_from: 'back' });
      await inState(gateway, 'refunded');
      assert.equal(await sandbox.settled(), 2, 'taken once, given back once');
      const { balances } = await (await fetch(`${sandbox.facilitator}/balances`)).json();
      const of = (address) => BigInt(balances.find(({ account }) => account === address).amount);
      assert.equal(of(chain.payer.address) - of(OUTSIDE), 0n - CENT, 'the payer is whole');
      await isWhole(gateway);
    };
    try {
      await withLives(begin, whole);
    } finally {
      await sandbox.stop();
    }
  }

  for (const fault of ['settle_pending', 'server_error', 'lies_unpaid', 'lies_reverted']) {
    test(`${fault}: goes back once`, () => beforeSandbox(({ sandbox }) => sandbox.fail(fault)));
  }

  test('a transfer whose time is over is signed anew, under the same nonce', () =>
    beforeSandbox(async ({ dir, live }) => {
      await dies(live({ COUNTERSIGN_FAILPOINT: 'refund.intended' }));
      await grownOld(dir, POOR);
    }));
});
