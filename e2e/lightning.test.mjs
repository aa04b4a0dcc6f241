// The Lightning daemon on a real network: a regtest chain, a gateway's node, a payer, and a
// provider that opens channels just in time. What is said of money is looked up on both sides.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { appendFileSync, readFileSync, statSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';

import {
  atRest, balances, event, kill, lightningBinary, moved, now, pay, restart, secret,
  startLightning, usable,
} from './lib/lightning.mjs';
import { start, until } from './lib/process.mjs';

let network;
let gateway;
let payer;
before(async () => {
  network = await startLightning();
  ({ gateway, payer } = network.nodes);
});
after(() => network?.stop());

const invoice = (node, members) => node.call('POST', '/v1/invoices', { memo: 'a test', ...members });
const lookUp = (node, hash) => node.call('GET', `/v1/invoices/${hash}`);
const settle = (node, hash, preimage) =>
  node.ask('POST', `/v1/invoices/${hash}/settle`, { preimage });
const cancel = (node, hash) => node.ask('POST', `/v1/invoices/${hash}/cancel`);
const both = () => atRest(gateway, payer);

/** Lets the payer begin to pay, and gives the way to its end. */
const begin = (bolt11) =>
  payer.call('POST', '/v1/payments', { bolt11, max_fee_msat: 1_000, wait_s: 0 });
const paymentOf = (hash) => payer.call('GET', `/v1/payments/${hash}`);
const ended = (hash) =>
  until('the payment ends', async () => {
    const payment = await paymentOf(hash);
    return payment.state !== 'pending' && payment;
  });

/** A hold invoice whose payment has arrived. */
async function held(amount_msat) {
  const { preimage, payment_hash } = secret();
  const cursor = await now(gateway);
  const { bolt11 } = await invoice(gateway, { amount_msat, payment_hash });
  assert.equal((await lookUp(gateway, payment_hash)).state, 'open');
  assert.equal((await begin(bolt11)).state, 'pending');
  const accepted = await event(gateway, cursor, (e) => e.payment_hash === payment_hash);
  assert.equal(accepted.kind, 'accepted');
  assert.equal(accepted.amount_msat, amount_msat);
  return { preimage, payment_hash, bolt11, accepted };
}

describe('invoices', () => {
  test('a plain invoice is paid, to the millisatoshi', async () => {
    const [ours, theirs] = await both();
    const cursor = await now(gateway);
    const { bolt11, payment_hash } = await invoice(gateway, { amount_msat: 21_001 });
    const paid = await pay(payer, bolt11);
    assert.equal(paid.state, 'succeeded');
    assert.equal(paid.payment_hash, payment_hash);
    const hash = createHash('sha256').update(Buffer.from(paid.preimage, 'hex')).digest('hex');
    assert.equal(hash, payment_hash);
    const settled = await event(gateway, cursor, (e) => e.payment_hash === payment_hash);
    assert.deepEqual([settled.kind, settled.amount_msat], ['settled', 21_001]);
    const looked = await lookUp(gateway, payment_hash);
    assert.deepEqual(
      [looked.state, looked.hold, looked.amount_received_msat], ['settled', false, 21_001],
    );
    await moved(gateway, ours, 21_001);
    await moved(payer, theirs, -21_001 - (paid.fee_msat ?? 0));
  });

  test('paying twice pays once', async () => {
    const { bolt11 } = await invoice(gateway, { amount_msat: 5_000 });
    const first = await pay(payer, bolt11);
    const [ours, theirs] = await both();
    const again = await Promise.all([pay(payer, bolt11), pay(payer, bolt11)]);
    for (const payment of again) assert.deepEqual(payment, first);
    await moved(gateway, ours, 0);
    await moved(payer, theirs, 0);
  });

  test('a held payment is settled', async () => {
    const [ours, theirs] = await both();
    const { preimage, payment_hash, accepted } = await held(50_000);
    const looked = await lookUp(gateway, payment_hash);
    assert.equal(looked.state, 'accepted');
    assert.equal(looked.claim_deadline_height, accepted.claim_deadline_height);
    assert.ok(looked.claim_deadline_height > looked.height, JSON.stringify(looked));
    assert.equal((await paymentOf(payment_hash)).state, 'pending');

    const wrong = await settle(gateway, payment_hash, secret().preimage);
    assert.deepEqual([wrong.status, wrong.body.error.code], [422, 'wrong_preimage']);
    assert.equal((await lookUp(gateway, payment_hash)).state, 'accepted');

    const settled = await settle(gateway, payment_hash, preimage);
    assert.deepEqual([settled.status, settled.body.state], [200, 'settled']);
    const again = await settle(gateway, payment_hash, preimage);
    assert.deepEqual([again.status, again.body.state], [200, 'settled']);
    const late = await cancel(gateway, payment_hash);
    assert.deepEqual([late.status, late.body.error.code], [409, 'settled']);

    const paid = await ended(payment_hash);
    assert.deepEqual([paid.state, paid.preimage], ['succeeded', preimage]);
    await moved(gateway, ours, 50_000);
    await moved(payer, theirs, -50_000);
  });

  test('a held payment is cancelled, and the payer has its money back', async () => {
    const [ours, theirs] = await both();
    const { preimage, payment_hash, accepted } = await held(70_000);
    await moved(payer, theirs, -70_000);
    const cancelled = await cancel(gateway, payment_hash);
    assert.deepEqual([cancelled.status, cancelled.body.state], [200, 'cancelled']);
    const again = await cancel(gateway, payment_hash);
    assert.deepEqual([again.status, again.body.state], [200, 'cancelled']);
    const late = await settle(gateway, payment_hash, preimage);
    assert.deepEqual([late.status, late.body.error.code], [409, 'cancelled']);
    const told = await event(gateway, accepted.cursor, (e) => e.payment_hash === payment_hash);
    assert.equal(told.kind, 'cancelled');
    assert.equal((await ended(payment_hash)).state, 'failed');
    await moved(gateway, ours, 0);
    await moved(payer, theirs, 0);
  });

  test('an invoice cancelled before it is paid takes no payment', async () => {
    const [ours, theirs] = await both();
    const { preimage, payment_hash } = secret();
    const { bolt11 } = await invoice(gateway, { amount_msat: 9_000, payment_hash });
    const early = await settle(gateway, payment_hash, preimage);
    assert.deepEqual([early.status, early.body.error.code], [409, 'not_held']);
    assert.equal((await cancel(gateway, payment_hash)).status, 200);
    assert.equal((await pay(payer, bolt11)).state, 'failed');
    assert.equal((await lookUp(gateway, payment_hash)).state, 'cancelled');
    await moved(gateway, ours, 0);
    await moved(payer, theirs, 0);
  });

  test('a payment that nobody settles goes back at its deadline', async () => {
    const [, theirs] = await both();
    const { preimage, payment_hash, accepted } = await held(8_000);
    const { height } = await lookUp(gateway, payment_hash);
    await network.mine(accepted.claim_deadline_height - height);
    assert.equal((await lookUp(gateway, payment_hash)).state, 'cancelled');
    const late = await settle(gateway, payment_hash, preimage);
    assert.deepEqual([late.status, late.body.error.code], [409, 'not_held']);
    assert.equal((await ended(payment_hash)).state, 'failed');
    await moved(payer, theirs, 0);
  });

  test('what an invoice may be is checked', async () => {
    const { payment_hash } = secret();
    const plain = await invoice(gateway, { amount_msat: 1_000 });
    await invoice(gateway, { amount_msat: 1_000, payment_hash });
    const refused = [
      ['exists', { amount_msat: 1_000, payment_hash }],
      ['exists', { amount_msat: 1_000, payment_hash: plain.payment_hash }],
      ['bad_request', { amount_msat: 0 }],
      ['bad_request', { amount_msat: 1.5 }],
      ['bad_request', { amount_msat: -1 }],
      ['bad_request', { amount_msat: 1_000, memo: 'x'.repeat(640) }],
      ['bad_request', { amount_msat: 1_000, memo: 'x', description_hash: payment_hash }],
      ['bad_request', { amount_msat: 1_000, payment_hash: payment_hash.toUpperCase() }],
      ['bad_request', { amount_msat: 1_000, expiry_s: 59 }],
      ['bad_request', { amount_msat: 1_000, ammount: 1 }],
      ['bad_request', '{"amount_msat": 1000, "amount_msat": 2000}'],
      ['bad_request', '{'],
      ['no_liquidity_source', { amount_msat: 1_000, jit: true }],
      ['too_large', { amount_msat: 1_000, memo: 'x'.repeat(70_000) }],
    ];
    for (const [code, members] of refused) {
      const { status, body } = await gateway.ask('POST', '/v1/invoices', members);
      assert.equal(body.error?.code, code, `${status} ${JSON.stringify(members).slice(0, 99)}`);
    }
    const withdrawn = await cancel(gateway, plain.payment_hash);
    assert.deepEqual([withdrawn.status, withdrawn.body.error.code], [409, 'not_hold']);
    const foreign = await cancel(gateway, secret().payment_hash);
    assert.deepEqual([foreign.status, foreign.body.error.code], [404, 'not_found']);
  });
});

describe('refunds', () => {
  test('a BOLT12 refund is paid, once, and its key gives it once', async () => {
    const [ours, theirs] = await both();
    const cursor = await now(gateway);
    const members = { key: 'call-1', amount_msat: 10_000, max_fee_msat: 1_000 };
    const first = await gateway.ask('POST', '/v1/refunds', members);
    assert.equal(first.status, 201);
    const { refund } = first.body;
    assert.match(refund, /^lnr1/);
    const again = await gateway.ask('POST', '/v1/refunds', members);
    assert.deepEqual([again.status, again.body.refund], [200, refund]);
    const other = await gateway.ask('POST', '/v1/refunds', { ...members, amount_msat: 1 });
    assert.deepEqual([other.status, other.body.error.code], [409, 'exists']);

    const asked = await payer.call('POST', '/v1/requests', { refund });
    assert.equal(asked.amount_msat, 10_000);
    const paid = await event(gateway, cursor, (e) => e.key === 'call-1');
    assert.deepEqual([paid.kind, paid.payment_hash], ['paid', asked.payment_hash]);
    await moved(payer, theirs, 10_000);
    await moved(gateway, ours, -10_000);
    const { state } = await gateway.call('GET', '/v1/refunds/call-1');
    assert.equal(state, 'succeeded');

    await payer.ask('POST', '/v1/requests', { refund });
    const [ours2, theirs2] = await both();
    const { bolt11 } = await invoice(gateway, { amount_msat: 1_000 });
    await pay(payer, bolt11);
    await moved(gateway, ours2, 1_000);
    await moved(payer, theirs2, -1_000);
  });
});

describe('crashes', () => {
  test('the cursor and what is held survive kill -9, and the payment can be settled', async () => {
    const [ours, theirs] = await both();
    const { preimage, payment_hash, accepted } = await held(33_000);
    const before = await gateway.call('GET', '/v1/events?limit=1000');
    await both();
    await kill(gateway);
    await restart(gateway);
    const after = await gateway.call('GET', '/v1/events?limit=1000');
    assert.deepEqual(after.events.slice(0, before.events.length), before.events);
    const more = await gateway.call('GET', `/v1/events?cursor=${accepted.cursor}`);
    assert.ok(more.events.every((e) => e.payment_hash !== payment_hash), JSON.stringify(more));
    assert.equal((await lookUp(gateway, payment_hash)).state, 'accepted');
    assert.equal((await settle(gateway, payment_hash, preimage)).status, 200);
    assert.equal((await ended(payment_hash)).state, 'succeeded');
    await moved(gateway, ours, 33_000);
    await moved(payer, theirs, -33_000);
  });

  // The crash comes after the decision and before the node acts on it: what is then on disk is
  // written there while the daemon is down.
  for (const [fact, state, outcome] of [
    ['settling', 'settled', 'succeeded'], ['cancelled', 'cancelled', 'failed'],
  ]) {
    test(`what was decided before a crash is done after it: ${fact}`, async () => {
      const [ours, theirs] = await both();
      const { preimage, payment_hash } = await held(12_000);
      await both();
      await kill(gateway);
      const journal = `${gateway.data_dir}/journal.jsonl`;
      const { n, at_ms } = JSON.parse(readFileSync(journal, 'utf8').trim().split('\n').at(-1));
      const decided = { n: n + 1, at_ms, fact, payment_hash };
      if (fact === 'settling') decided.preimage = preimage;
      appendFileSync(journal, `${JSON.stringify(decided)}\n`);
      await restart(gateway);
      await until(`it is ${state}`, async () =>
        (await lookUp(gateway, payment_hash)).state === state);
      assert.equal((await ended(payment_hash)).state, outcome);
      const msat = state === 'settled' ? 12_000 : 0;
      await moved(gateway, ours, msat);
      await moved(payer, theirs, -msat);
    });
  }

  test('a payment made while the daemon was down is told after the restart', async () => {
    const [ours] = await both();
    const { bolt11, payment_hash } = await invoice(gateway, { amount_msat: 4_000 });
    const cursor = await now(gateway);
    // Begun while the other side hangs; it arrives when the daemon is back.
    const stopped = gateway.pid();
    process.kill(stopped, 'SIGSTOP');
    await begin(bolt11);
    assert.equal((await paymentOf(payment_hash)).state, 'pending');
    await kill(gateway);
    assert.equal((await paymentOf(payment_hash)).state, 'pending');
    await restart(gateway);
    const told = await event(gateway, cursor, (e) => e.payment_hash === payment_hash);
    assert.deepEqual([told.kind, told.amount_msat], ['settled', 4_000]);
    assert.equal((await ended(payment_hash)).state, 'succeeded');
    await moved(gateway, ours, 4_000);
  });

  test('a payer that crashes pays once', async () => {
    const [ours, theirs] = await both();
    const { preimage, payment_hash, bolt11 } = await held(6_000);
    await both();
    await kill(payer);
    await restart(payer);
    assert.equal((await begin(bolt11)).state, 'pending');
    assert.equal((await settle(gateway, payment_hash, preimage)).status, 200);
    assert.equal((await ended(payment_hash)).state, 'succeeded');
    assert.equal((await begin(bolt11)).state, 'succeeded');
    await moved(gateway, ours, 6_000);
    await moved(payer, theirs, -6_000);
  });
});

describe('the door', () => {
  test('only the token opens, and only its owner can read it', async () => {
    assert.equal(statSync(gateway.tokenFile).mode & 0o777, 0o600);
    assert.equal(statSync(gateway.data_dir).mode & 0o777, 0o700);
    for (const headers of [{}, { authorization: 'Bearer x' }, { authorization: 'Basic eA==' }]) {
      const { status, body } = await gateway.ask('GET', '/v1/info', undefined, headers);
      assert.deepEqual([status, body.error.code], [401, 'unauthorized']);
    }
    assert.equal((await gateway.ask('GET', '/v1/nowhere')).body.error.code, 'not_found');
    assert.equal((await gateway.ask('DELETE', '/v1/info')).body.error.code, 'bad_request');
    assert.equal((await gateway.ask('GET', '/v1/events?cursor=x')).body.error.code, 'bad_request');
    assert.equal((await gateway.ask('GET', '/v1/events?wait_s=61')).body.error.code, 'bad_request');
  });

  test('it says what it is and what it can', async () => {
    const { network: name, capabilities, synced } = await gateway.call('GET', '/v1/info');
    assert.equal(name, 'regtest');
    assert.equal(synced, true);
    assert.deepEqual(
      capabilities, { hold: true, msat: true, jit: false, bolt12: true, lsps1: false },
    );
  });

  test('an event is told to those who wait', async () => {
    const cursor = await now(gateway);
    const idle = await gateway.call('GET', `/v1/events?cursor=${cursor}&wait_s=1`);
    assert.deepEqual(idle, { cursor, events: [] });
    const waiting = gateway.call('GET', `/v1/events?cursor=${cursor}&wait_s=30`);
    const { bolt11, payment_hash } = await invoice(gateway, { amount_msat: 1_000 });
    await pay(payer, bolt11);
    assert.equal((await waiting).events[0].payment_hash, payment_hash);
  });

  test('a second process on the same directory does not start', async () => {
    const second = start(lightningBinary, [gateway.file]);
    const { code } = await second.ended;
    assert.equal(code, 1);
    assert.match(second.output(), /another process has it/);
  });

  test('no preimage and no token in the log', async () => {
    const { preimage, payment_hash } = await held(2_000);
    await settle(gateway, payment_hash, preimage);
    await ended(payment_hash);
    const token = readFileSync(gateway.tokenFile, 'utf8');
    for (const secretText of [preimage, token]) {
      assert.ok(!gateway.output().includes(secretText));
    }
  });
});

describe('through a provider', () => {
  let lsp;
  before(async () => {
    lsp = await startLightning({
      nodes: [
        ['provider', () => ({ lsps2_service: { opening_fee_ppm: 10_000, opening_fee_min_msat: 0 } })],
        'buyer',
        'shop',
        ['fresh', ({ provider: { node_id, address } }) => ({
          liquidity: { lsps2: { node_id, address } },
          anchor_reserve_sat: 0,
        })],
      ],
      channels: [['buyer', 'provider', { capacity_sat: 2_000_000 }], ['provider', 'shop']],
      poor: ['fresh'],
    });
  });
  after(() => lsp?.stop());

  test('a node without channels is paid through one that is opened just in time, for a fee', async () => {
    const { fresh, buyer } = lsp.nodes;
    assert.deepEqual((await balances(fresh)).channels, []);
    const asked = { amount_msat: 100_000_000, jit: true };
    const dear = await fresh.ask('POST', '/v1/invoices', { ...asked, max_jit_fee_msat: 1 });
    assert.deepEqual([dear.status, dear.body.error.code], [422, 'liquidity_fee_too_high']);
    const { bolt11, payment_hash } = await invoice(fresh, asked);
    const paid = await pay(buyer, bolt11, { max_fee_msat: 100_000 });
    assert.equal(paid.state, 'succeeded', JSON.stringify(paid));
    const settled = await until('it is settled', async () => {
      const looked = await lookUp(fresh, payment_hash);
      return looked.state === 'settled' && looked;
    });
    assert.equal(settled.amount_received_msat + settled.fee_skimmed_msat, 100_000_000);
    assert.equal(settled.fee_skimmed_msat, 1_000_000);
    await usable(fresh);
    const [{ outbound_msat, inbound_msat, channels }] = await atRest(fresh);
    assert.equal(channels.length, 1);
    assert.ok(inbound_msat > 0 && outbound_msat > 0, JSON.stringify({ inbound_msat, outbound_msat }));
  });

  test('such a payment can be held too', async () => {
    const { fresh, buyer } = lsp.nodes;
    const { preimage, payment_hash } = secret();
    const asked = { amount_msat: 50_000_000, jit: true, payment_hash };
    const { bolt11 } = await invoice(fresh, asked);
    const paying = pay(buyer, bolt11, { max_fee_msat: 100_000, wait_s: 60 });
    await until('it is held', async () => (await lookUp(fresh, payment_hash)).state === 'accepted',
      { timeout_ms: 40_000 });
    assert.equal((await settle(fresh, payment_hash, preimage)).body.state, 'settled');
    assert.equal((await paying).preimage, preimage);
  });

  test('a routed payment costs its fee, and no more than is allowed', async () => {
    const { shop, buyer } = lsp.nodes;
    const [got, gave] = await atRest(shop, buyer);
    const { bolt11, payment_hash } = await invoice(shop, { amount_msat: 7_000_000 });
    const tight = await pay(buyer, bolt11, { max_fee_msat: 0 });
    assert.equal(tight.state, 'failed', JSON.stringify(tight));
    assert.deepEqual(await pay(buyer, bolt11), tight, 'a repeat starts nothing');
    const asked = { bolt11, max_fee_msat: 10_000, wait_s: 30, retry: true };
    const paid = await buyer.call('POST', '/v1/payments', asked);
    assert.equal(paid.state, 'succeeded', JSON.stringify(paid));
    assert.ok(paid.fee_msat > 0 && paid.fee_msat <= 10_000, JSON.stringify(paid));
    assert.equal((await lookUp(shop, payment_hash)).amount_received_msat, 7_000_000);
    await moved(shop, got, 7_000_000);
    await moved(buyer, gave, -7_000_000 - paid.fee_msat);
  });
});
