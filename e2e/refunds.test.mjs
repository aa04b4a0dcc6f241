// What is owed back for credentials goes back over a real Lightning network to whoever shows
// macaroon and preimage: as a BOLT12 refund, claimed by another node, or to an invoice that they
// show, paid by the treasury's node; booked once, over crashes too.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';

import { atRest, pay, startLightning } from './lib/lightning.mjs';
import { decode } from './lib/macaroon.mjs';
import { until } from './lib/process.mjs';
import {
  MCP_ACCEPT, accounts, callTool, l402, lightningOffer, published, startBefore, startParts,
  unbalanced, verifyLog,
} from './lib/rig.mjs';

const servers = {
  open: {
    tools: {
      get_slow: { price: '30 sat', uses: 3, identity: 'anonymous' },
      get_report: { price: '300 sat', uses: 3, identity: 'anonymous' },
    },
  },
};
// The specification's own example, for mainnet.
const MAINNET =
  'lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh';

let network;
let nodes;
let parts;
let purse;
let gateway;
let stale;
before(async () => {
  network = await startLightning({
    // A payer who has a second wallet: of two peers it could ask no BOLT12 refund to be paid.
    nodes: ['merchant', 'payer', 'second', 'purse'],
    channels: [['payer', 'merchant'], ['purse', 'second']],
  });
  ({ nodes } = network);
  stale = { ...(await invoice(20_000, { expiry_s: 60 })), at: Date.now() + 61_000 };
  parts = await startParts();
  purse = await startPurse(nodes.purse);
  gateway = await live();
});
after(async () => {
  await gateway?.stop();
  await purse?.stop();
  await parts?.stop();
  await network?.stop();
});

/** The gateway; again in the same place after the first has died. */
const live = (env = {}) => {
  const source = { ldk: { url: nodes.merchant.url, token: `file:${nodes.merchant.tokenFile}` } };
  return startBefore(parts, {
    servers,
    treasuries: { back: { wallet: 'env:E2E_TREASURY', per_call: '0.05 USD', per_day: '5 USD' } },
    rails: { l402: { source, network: 'regtest' }, refund_from: 'back' },
  }, {
    env: { E2E_TREASURY: purse.url, ...env },
    ...(gateway && { dir: gateway.dir, port: gateway.port }),
  });
};

/**
 * The treasury's wallet: a node of ours, as wallets behind a URL are. `down` is not reached, `mute`
 * pays and does not say so.
 */
async function startPurse(node) {
  const state = { mode: 'up', asked: 0 };
  const say = (response, status, body) =>
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  const server = http.createServer(async (request, response) => {
    let text = '';
    for await (const part of request) text += part;
    if (state.mode === 'down') return request.socket.destroy();
    if (request.method === 'GET') {
      const { status, body } = await node.ask('GET', `/v1${request.url}`);
      if (state.mode === 'mute') return request.socket.destroy();
      const isOver = status === 404 || body.state === 'failed';
      if (isOver) return say(response, 200, { state: 'unpaid' });
      const isPaid = body.state === 'succeeded';
      return say(response, 200, isPaid ? { state: 'paid', preimage: body.preimage } : { state: 'pending' });
    }
    state.asked++;
    const paid = await pay(node, JSON.parse(text).invoice).catch((error) => ({ reason: error.message }));
    if (state.mode === 'mute') return request.socket.destroy();
    if (paid.state === 'succeeded') return say(response, 200, { preimage: paid.preimage });
    return say(response, paid.state === 'pending' ? 504 : 400, { error: paid.reason ?? paid.state });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    asked: () => state.asked,
    is: (mode) => (state.mode = mode),
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** An invoice of the payer's other wallet. */
const invoice = (amount_msat, more = {}) =>
  nodes.second.call('POST', '/v1/invoices', { amount_msat, memo: 'back', ...more });

const show = (paid, headers = {}) =>
  callTool(gateway, 'open', 'get_slow', { ms: 1 }, { headers: { ...l402(paid), ...headers } });
const key = ({ token }) => createHash('sha256').update(decode(token).identifier).digest('hex');
const owed = async () => (await accounts(gateway))
  .filter(({ account }) => account === 'refunds_due')
  .reduce((sum, { posted }) => sum + posted, 0n) / 10n ** 12n;

async function bundle(tool = 'get_slow') {
  const offer = lightningOffer(await callTool(gateway, 'open', tool, { ms: 1 }));
  const { preimage, state } = await pay(nodes.payer, offer.invoice);
  assert.equal(state, 'succeeded');
  return { ...offer, preimage };
}

/** A bundle of which one call was used, revoked: 20 sat are owed. */
async function owing() {
  const paid = await bundle();
  assert.equal((await show(paid)).status, 200);
  await gateway.cli('credential', 'revoke', key(paid));
  return paid;
}

/** Shows a credential with an invoice; gives the facts of the refusal. */
async function claim(paid, bolt11, options = {}) {
  const answer = await callTool(options.at ?? gateway, 'open', 'get_slow', { ms: 1 }, {
    headers: { ...l402(paid), ...options.headers }, meta: { 'countersign/refund-invoice': bolt11 },
  });
  assert.deepEqual([answer.code, answer.problem?.charged], ['PAY-012', 'no'], answer.text);
  return answer.problem.facts ?? {};
}

/** What has come in at the payer's other wallet since `before`, in msat, at rest. */
const received = async ([before], node = nodes.second) =>
  (await atRest(node))[0].outbound_msat - before.outbound_msat;

async function isWhole(owedSat = 0n) {
  assert.equal(await owed(), owedSat);
  assert.deepEqual(await unbalanced(gateway), []);
  await published(gateway);
  const { code, findings } = await verifyLog(gateway);
  assert.deepEqual([code, findings], [0, []]);
}

test('two of three calls go back, to who paid, once, over a crash', async () => {
  const paid = await bundle();
  assert.equal((await show(paid)).status, 200);
  await gateway.cli('credential', 'revoke', key(paid));
  assert.equal(await owed(), 20n);

  // Who has not paid is not told.
  const stranger = await show({ ...paid, preimage: '00'.repeat(32) });
  assert.deepEqual([stranger.code, stranger.problem.facts?.refund], ['PAY-014', undefined]);

  const refused = await show(paid);
  assert.deepEqual([refused.status, refused.code], [401, 'PAY-012'], refused.text);
  const { refund, owed: amount, cause } = refused.problem.facts;
  assert.deepEqual([amount, cause], ['20 sat', 'revoked']);
  assert.match(refund, /^lnr1/);
  const inMcp = await show(paid, MCP_ACCEPT);
  assert.equal(inMcp.problem.facts.refund, refund, 'one refund, however often it is asked for');
  assert.ok(!JSON.stringify(inMcp.result?.content ?? '').includes('lnr1'), 'it is no text for a model');
  await gateway.kill9();
  await gateway.restart();
  assert.equal((await show(paid)).problem.facts.refund, refund, 'and over a crash');

  const before = await atRest(nodes.payer);
  await nodes.payer.call('POST', '/v1/requests', { refund });
  await until('it is booked', async () => (await owed()) === 0n, { timeout_ms: 60_000 });
  const later = await atRest(nodes.payer);
  assert.equal(later[0].outbound_msat - before[0].outbound_msat, 20_000);
  assert.equal((await show(paid)).problem.facts.refund, undefined, 'nothing is owed any more');

  await gateway.kill9();
  await gateway.restart();
  assert.equal(await owed(), 0n);
  assert.deepEqual(await unbalanced(gateway), []);
  await published(gateway);
  const { code, findings } = await verifyLog(gateway);
  assert.deepEqual([code, findings], [0, []]);
});

test('what was paid and never used goes back whole', async () => {
  const paid = await bundle();
  await until('the gateway heard of it', async () => {
    const { items } = await gateway.cli('credential', 'list');
    return items.find(({ credential }) => credential === key(paid))?.state === 'paid';
  }, { timeout_ms: 60_000 });
  await gateway.cli('credential', 'revoke', key(paid));
  const { problem } = await show(paid);
  assert.equal(problem.facts.owed, '30 sat');
  const before = await atRest(nodes.payer);
  // A row that a node offers is not paid another way.
  const { refund, refund_invoice } = await claim(paid, (await invoice(30_000)).bolt11);
  assert.deepEqual([refund, refund_invoice], [undefined, 'it is offered as a BOLT12 refund']);
  await nodes.payer.call('POST', '/v1/requests', { refund: problem.facts.refund });
  await until('it is booked', async () => (await owed()) === 0n, { timeout_ms: 60_000 });
  assert.equal(await received(before, nodes.payer), 30_000);
});

describe('an invoice that the payer shows', { concurrency: 1 }, () => {
  test('over exactly what is owed is paid, once, in every form of asking', async () => {
    const paid = await owing();
    const before = await atRest(nodes.second);
    const { bolt11 } = await invoice(20_000);
    // Who has not paid has nothing paid.
    const stranger = await callTool(gateway, 'open', 'get_slow', { ms: 1 }, {
      headers: l402({ ...paid, preimage: '00'.repeat(32) }), meta: { 'countersign/refund-invoice': bolt11 },
    });
    assert.deepEqual([stranger.code, stranger.problem.facts?.refund], ['PAY-014', undefined]);
    assert.equal(purse.asked(), 0);
    assert.deepEqual(await claim(paid, bolt11), { cause: 'revoked', refund: 'paid' });
    assert.equal(await received(before), 20_000);
    assert.equal((await claim(paid, bolt11, { headers: MCP_ACCEPT })).refund, 'paid', 'the same again');
    const { refund, refund_invoice, owed: left } = await claim(paid, (await invoice(20_000)).bolt11);
    assert.deepEqual([refund, refund_invoice, left], [undefined, 'its amount is not what is owed', undefined]);
    assert.equal(purse.asked(), 1);
    assert.equal(await received(before), 20_000);
    await isWhole();
  });

  test('that is none, of another network, over another amount or none, or has expired, is not', async () => {
    const paid = await owing();
    const asked = purse.asked();
    const network = 'it is no invoice of our network with an amount';
    for (const [bolt11, why] of [
      ['lnbcrt1', network],
      ['x'.repeat(4096), network],
      [MAINNET, network],
      [(await invoice(20_001)).bolt11, 'its amount is not what is owed'],
      [(await invoice(19_999)).bolt11, 'its amount is not what is owed'],
    ]) {
      const facts = await claim(paid, bolt11);
      assert.deepEqual(facts, { cause: 'revoked', refund_invoice: why, owed: '20 sat' });
    }
    for (const bad of [7, '', 'x'.repeat(4097), { bolt11: stale.bolt11 }]) {
      const answer = await callTool(gateway, 'open', 'get_slow', { ms: 1 }, {
        headers: l402(paid), meta: { 'countersign/refund-invoice': bad },
      });
      assert.equal(answer.code, 'PAY-002', answer.text);
    }
    await until('it has expired', () => Date.now() > stale.at, { timeout_ms: 90_000 });
    assert.equal((await claim(paid, stale.bolt11)).refund_invoice, 'it has expired');
    assert.equal(purse.asked(), asked, 'no wallet was asked');
    assert.equal((await claim(paid, (await invoice(20_000)).bolt11)).refund, 'paid');
    await isWhole();
  });

  test('one of 32 at once is paid', async () => {
    const paid = await owing();
    const before = await atRest(nodes.second);
    const invoices = [];
    for (let at = 0; at < 32; at++) invoices.push((await invoice(20_000)).bolt11);
    const answers = await Promise.all(invoices.map((bolt11) => claim(paid, bolt11)));
    assert.equal(answers.filter(({ refund }) => refund === 'paid').length, 1, JSON.stringify(answers));
    const others = new Set(answers.map(({ refund_invoice }) => refund_invoice));
    others.delete(undefined);
    const known = ['another invoice is being paid', 'its amount is not what is owed', 'it is paid, or given, another way'];
    assert.ok([...others].every((why) => known.includes(why)), [...others].join());
    assert.equal(await received(before), 20_000);
    await isWhole();
  });

  test('above what is paid without a person is not; a BOLT12 refund is', async () => {
    const paid = await bundle('get_report');
    const use = await callTool(gateway, 'open', 'get_report', {}, { headers: l402(paid) });
    assert.equal(use.status, 200, use.text);
    await gateway.cli('credential', 'revoke', key(paid));
    const { refund_invoice } = await claim(paid, (await invoice(200_000)).bolt11);
    assert.equal(refund_invoice, 'it is more than is paid without a person');
    const { refund } = (await show(paid)).problem.facts;
    assert.match(refund, /^lnr1/);
    await nodes.payer.call('POST', '/v1/requests', { refund });
    await until('it is booked', async () => (await owed()) === 0n, { timeout_ms: 60_000 });
    await isWhole();
  });

  test('is not paid while the wallet is down, and is when it is back', async () => {
    const paid = await owing();
    const before = await atRest(nodes.second);
    const [one, two] = [(await invoice(20_000)).bolt11, (await invoice(20_000)).bolt11];
    purse.is('down');
    // The connection broke in the middle: it may have paid.
    assert.deepEqual(await claim(paid, one), { cause: 'revoked', refund: 'on its way' });
    assert.deepEqual(await claim(paid, one), { cause: 'revoked', refund: 'on its way' });
    assert.equal((await claim(paid, two)).refund_invoice, 'another invoice is being paid');
    assert.equal((await show(paid)).problem.facts.refund, 'on its way', 'and no node offers it');
    purse.is('up');
    await until('it is paid', async () => (await owed()) === 0n, { timeout_ms: 30_000 });
    assert.equal(await received(before), 20_000);
    assert.equal((await claim(paid, one)).refund, 'paid');
    await isWhole();
  });

  test('that may have been paid is asked about over a death, and another is not paid', async () => {
    const paid = await owing();
    const before = await atRest(nodes.second);
    const [one, two] = [(await invoice(20_000)).bolt11, (await invoice(20_000)).bolt11];
    purse.is('mute');
    assert.deepEqual(await claim(paid, one), { cause: 'revoked', refund: 'on its way' });
    await gateway.kill9();
    await gateway.restart();
    assert.equal((await claim(paid, two)).refund_invoice, 'another invoice is being paid');
    assert.equal(await owed(), 20n);
    purse.is('up');
    await until('it is booked', async () => (await owed()) === 0n, { timeout_ms: 30_000 });
    assert.equal(await received(before), 20_000);
    await isWhole();
  });

  for (const point of ['refund.intended', 'refund.paid', 'refund.booked']) {
    test(`a death at ${point} pays it neither twice nor never`, async () => {
      const paid = await owing();
      const before = await atRest(nodes.second);
      await gateway.kill9();
      const dying = await live({ COUNTERSIGN_FAILPOINT: point });
      const { bolt11 } = await invoice(20_000);
      await assert.rejects(claim(paid, bolt11, { at: dying }));
      await until('it dies', () => !dying.isRunning());
      await gateway.restart();
      await until('it is booked', async () => (await owed()) === 0n, { timeout_ms: 30_000 });
      assert.equal(await received(before), 20_000);
      assert.equal((await claim(paid, bolt11)).refund, 'paid');
      await isWhole();
    });
  }

  test('reaches no server, and is in no log', async () => {
    const { bolt11 } = await invoice(1_000);
    const answer = await callTool(gateway, 'open', 'get_slow', { ms: 1 }, { meta: { 'countersign/refund-invoice': bolt11 } });
    assert.equal(answer.status, 402, 'without a credential it is nothing');
    assert.ok(!gateway.stderr().includes('lnbcrt'), 'not logged');
  });
});
