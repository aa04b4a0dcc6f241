// Flows of a call with the points at which the gateway can die in them, what each death leaves, and
// what must hold afterwards, however it died.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { until } from './process.mjs';
import {
  accounts, admin, callTool, calls, l402, lightningOffer, published, unbalanced, verifyLog,
  x402Challenge,
} from './rig.mjs';
import { payer } from './x402http.mjs';

const anonymous = { identity: 'anonymous' };
const PRICE_MINOR = 10_000n;
const servers = {
  free: { tools: { get_forecast: { price: 'free', ...anonymous } } },
  l402: { tools: { get_report: { price: '3 sat', ...anonymous } } },
  upfront: { tools: { get_slow: { price: '0.01 USDC', flow: 'upfront', ...anonymous } } },
  authorization: {
    tools: {
      delete_report: {
        price: '0.01 USDC', flow: 'authorization', intent: 'read', ...anonymous,
      },
    },
  },
  idempotent: {
    tools: {
      get_report: { price: '3 sat', idempotent: true, ...anonymous },
      get_slow: { price: '0.01 USDC', idempotent: true, ...anonymous },
    },
  },
};
// Money that went back is spent no more; a rolling window would go on counting it.
// A payment on its way is its caller's to repeat while the quote is open: not for long here.
export const config = {
  servers, limits: { quote_ttl: '10s' }, budgets: [{ name: 'all', scope: {}, limit: '100 USD', window: 'lifetime' }],
};

/** By flow: what to call, and where a call is after a death at each point it passes. */
export const flows = {
  free: {
    tool: 'get_forecast',
    // Nothing of it is left to decide.
    leaves: { permitted: [], started: ['released'], ran: ['released'], captured: ['captured'] },
  },
  l402: {
    tool: 'get_report',
    leaves: { permitted: [], started: ['in_doubt'], ran: ['in_doubt'], captured: ['captured'] },
  },
  upfront: {
    tool: 'get_slow',
    leaves: {
      permitted: [],
      settling: ['refund_due'],
      settled: ['refund_due'],
      started: ['in_doubt'],
      ran: ['in_doubt'],
      captured: ['captured'],
    },
  },
  authorization: {
    tool: 'delete_report',
    leaves: {
      permitted: [],
      started: ['in_doubt'],
      ran: ['in_doubt'],
      finished: ['captured'],
      settled: ['captured'],
      captured: ['captured'],
    },
  },
};

/** A point of recovery: no call passes it. */
export const RECOVERED = 'recovered';

/** Points of payments outward, which no call here makes: see buyer.test.mjs. */
export const OUTWARD = ['bought', 'intended'];

/** Points beside the path, which die in payback, refunds, hold and api, and in the store's own tests. */
export const BESIDE = [
  'held.accepted', 'held.returning', 'named.done', 'refund.booked', 'refund.intended', 'refund.paid',
  'store.commit', 'store.committed',
];

/** The points of a call that the sources name. */
export const failpoints = () => allFailpoints().filter((name) => !name.includes('.'));

/** All that the sources name. */
export function allFailpoints() {
  const crates = fileURLToPath(new URL('../../crates', import.meta.url));
  const found = new Set();
  for (const entry of readdirSync(crates, { recursive: true })) {
    if (!/^[^/]+\/src\/.*\.rs$/.test(entry)) continue;
    const source = readFileSync(path.join(crates, entry), 'utf8');
    for (const [, name] of source.matchAll(/\bfailpoint\("([a-z_.]+)"\)/g)) found.add(name);
  }
  return [...found].sort();
}

const ENDED = ['refused', 'captured', 'released', 'refunded', 'in_doubt', 'refund_due'];

/** Waits until recovery has nothing left to do by itself; gives all calls but the refused. */
export async function recovered(gateway, alsoQuiet = []) {
  const quiet = [...ENDED, ...alsoQuiet];
  const all = await until('recovery is done', async () => {
    const found = await calls(gateway);
    return found.every(({ state }) => quiet.includes(state)) && found;
  }, { timeout_ms: 40_000 });
  return all.filter(({ state }) => state !== 'refused');
}

/** The same parts with their x402 money on a chain: what settled and came in is read there. */
export async function onChain(parts, { payer: from, merchant, events, balance }) {
  const start = await balance(merchant.address);
  const isPayment = ({ args }) => args.from === from.address && args.to === merchant.address;
  return {
    ...parts,
    payerKey: from.key,
    settled: async () => (await events('Transfer')).filter(isPayment).length,
    earnedMinor: async () => (await balance(merchant.address)) - start,
  };
}

/** Pays for one call: the headers to present, the same at each try. */
export async function payFor(parts, gateway, at, tool, args) {
  const asked = await callTool(gateway, at, tool, args);
  const challenge = x402Challenge(asked);
  if (challenge) {
    const key = parts.payerKey ?? `0x${randomBytes(32).toString('hex')}`;
    const payment = await payer(key).createPaymentPayload(challenge);
    const encoded = Buffer.from(JSON.stringify(payment)).toString('base64');
    return { headers: { 'payment-signature': encoded } };
  }
  const offer = lightningOffer(asked);
  if (!offer) throw new Error(`no challenge: ${asked.status} ${asked.text}`);
  return { headers: l402({ ...offer, preimage: await parts.pay(offer.invoice) }) };
}

/** Everything that must hold whenever the gateway is quiet. */
export async function invariants(parts, gateway) {
  await published(gateway);
  const { code, findings, open } = await verifyLog(gateway);
  assert.deepEqual([code, findings], [0, []], 'the log verifies');
  const all = await calls(gateway);
  const inState = (state) => all.filter((call) => call.state === state).map(({ call }) => call).sort();
  const listed = async (what) =>
    (await admin(gateway, `/v1/ledger/${what}`)).body.items.map(({ call }) => call).sort();
  assert.deepEqual(await listed('in-doubt'), inState('in_doubt'), 'doubts are listed');
  assert.deepEqual(await listed('refunds'), inState('refund_due'), 'refunds are listed');
  assert.deepEqual(
    open.filter((call) => call.in_doubt).map(({ call }) => call).sort(), inState('in_doubt'),
    'the log names the doubts',
  );
  assert.deepEqual(await unbalanced(gateway), [], 'debits equal credits');
  assert.deepEqual((await gateway.cli('fsck')).findings, [], 'the database is sound');
  const known = (state) => all.filter((call) => call.state === state && call.rail === 'x402');
  const taken = [...known('captured'), ...known('refund_due'), ...known('refunded')];
  const earned = await parts.earnedMinor();
  assert.equal(earned, BigInt(await parts.settled()) * PRICE_MINOR);
  return { all, taken, inState };
}

/** Ends what is left to people, and looks that nothing is held any more. */
export async function clearUp(gateway) {
  for (const { call } of (await admin(gateway, '/v1/ledger/in-doubt')).body.items) {
    await gateway.cli('ledger', 'resolve', call, 'refund');
  }
  for (const { call } of (await admin(gateway, '/v1/ledger/refunds')).body.items) {
    await gateway.cli('ledger', 'refunded', call, '--reference', 'by hand');
  }
  await published(gateway);
  const { code, findings, open } = await verifyLog(gateway);
  assert.deepEqual([code, findings, open], [0, [], []], 'nothing is open in the log');
  assert.deepEqual(await unbalanced(gateway), []);
  const left = (await accounts(gateway)).filter(({ account, posted, pending_in, pending_out }) =>
    pending_in !== 0n || pending_out !== 0n ||
    (['held', 'suspense', 'refunds_due'].includes(account) && posted !== 0n));
  assert.deepEqual(left, [], 'nothing is held, in suspense or owed');
}

/**
 * A call that dies at a point, the next life, the caller's repetition, and all that must hold.
 * `live(parts, env)` starts a life of the gateway: the first, and what comes after its death.
 */
export async function die(parts, flow, name, live) {
  const { tool, leaves } = flows[flow];
  const args = { city: `${flow} ${name}`, ms: 1 };
  const first = await live(parts, { COUNTERSIGN_FAILPOINT: name });
  const [ran, settled] = [await parts.ran(tool), await parts.settled()];
  // A refusal, so that the log is not empty.
  assert.equal((await callTool(first, 'l402', 'get_report', { city: name })).status, 402);
  const paid = flow === 'free' ? {} : await payFor(parts, first, flow, tool, args);
  const show = (gateway) => callTool(gateway, flow, tool, args, paid);
  const earnedMsat = await parts.earnedMsat();

  const unanswered = await show(first).then((answer) => ({ answer }), (error) => ({ error }));
  if (!(name in leaves)) {
    assert.equal(unanswered.answer?.status, 200, `not on this flow, and yet it fails`);
    return;
  }
  assert.ok(unanswered.error, `it answered: ${unanswered.answer?.text}`);
  await until('the process is gone', () => !first.isRunning());

  const gateway = await live(parts);
  const left = await recovered(gateway);
  assert.deepEqual(left.map(({ state }) => state), leaves[name]);
  await invariants(parts, gateway);
  const isX402 = flow === 'upfront' || flow === 'authorization';
  const isRun = () => parts.ran(tool).then((now) => now - ran);
  const isPaid = () => parts.settled().then((now) => now - settled);
  const [ranBefore, paidBefore] = [await isRun(), await isPaid()];
  assert.ok(ranBefore <= 1 && paidBefore <= 1, `${ranBefore} runs, ${paidBefore} payments`);

  // The caller lost the answer, and repeats the request as it was.
  const again = await show(gateway);
  const isNewCall = flow === 'free';
  if (again.status === 200) {
    assert.equal(again.code, undefined, again.text);
    assert.equal(await isRun(), isNewCall ? ranBefore + 1 : 1, 'the tool ran once');
    if (isX402) assert.equal(await isPaid(), 1, 'served, and not paid');
    if (name === 'captured' && !isNewCall) {
      assert.equal(again.result._meta['countersign/replay-of'], left[0].call, again.text);
    }
  } else {
    assert.match(again.code, /^(UPS-002|PAY-008|PAY-010|SYS-005)$/, again.text);
    assert.equal(await isRun(), ranBefore, 'refused, and yet it ran');
    const hasPaid = flow === 'l402' || paidBefore === 1;
    assert.notEqual(again.problem.charged, hasPaid ? 'no' : 'yes', again.text);
    assert.equal(again.headers.get('www-authenticate'), null, 'it asks for money again');
    assert.equal(again.headers.get('payment-required'), null, 'it asks for money again');
  }
  assert.ok(await isPaid() <= 1, 'paid twice');
  assert.equal(await parts.earnedMsat(), earnedMsat, 'paid twice');
  const isFinal = leaves[name].length === 0 || leaves[name][0] === 'captured' || isNewCall;
  assert.equal(again.status === 200, isFinal, again.text);
  await invariants(parts, gateway);
  await clearUp(gateway);
  const { taken } = await invariants(parts, gateway);
  assert.equal(taken.length, await isPaid(), 'the ledger and the rail tell the same');
  if (flow === 'l402' && !isFinal) {
    // The doubt was ended for the payer: what it paid for can be used again.
    const given = await show(gateway);
    assert.equal(given.status, 200, `given back, and not usable: ${given.text}`);
    assert.equal(await parts.earnedMsat(), earnedMsat);
    return;
  }
  const { body } = await admin(gateway, '/v1/budgets');
  const spent = again.status === 200 && flow !== 'free';
  assert.equal(body.items[0].remaining === body.items[0].limit, !spent, JSON.stringify(body));
}
