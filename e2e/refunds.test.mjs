// What is owed back for credentials goes back over a real Lightning network: a BOLT12 refund for
// whoever shows macaroon and preimage, claimed by another node, booked once, over crashes too.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';

import { atRest, pay, startLightning } from './lib/lightning.mjs';
import { decode } from './lib/macaroon.mjs';
import { until } from './lib/process.mjs';
import {
  MCP_ACCEPT, accounts, callTool, l402, lightningOffer, published, startBefore, startParts,
  unbalanced, verifyLog,
} from './lib/rig.mjs';

const servers = { open: { tools: { get_slow: { price: '30 sat', uses: 3, identity: 'anonymous' } } } };

let network;
let nodes;
let parts;
let gateway;
before(async () => {
  network = await startLightning({ nodes: ['merchant', 'payer'], channels: [['payer', 'merchant']] });
  ({ nodes } = network);
  parts = await startParts();
  const source = { ldk: { url: nodes.merchant.url, token: `file:${nodes.merchant.tokenFile}` } };
  gateway = await startBefore(parts, { servers, rails: { l402: { source, network: 'regtest' } } });
});
after(async () => {
  await gateway?.stop();
  await parts?.stop();
  await network?.stop();
});

const show = (paid, headers = {}) =>
  callTool(gateway, 'open', 'get_slow', { ms: 1 }, { headers: { ...l402(paid), ...headers } });
const key = ({ token }) => createHash('sha256').update(decode(token).identifier).digest('hex');
const owed = async () => (await accounts(gateway))
  .filter(({ account }) => account === 'refunds_due')
  .reduce((sum, { posted }) => sum + posted, 0n) / 10n ** 12n;

async function bundle() {
  const offer = lightningOffer(await callTool(gateway, 'open', 'get_slow', { ms: 1 }));
  const { preimage, state } = await pay(nodes.payer, offer.invoice);
  assert.equal(state, 'succeeded');
  return { ...offer, preimage };
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
  assert.equal((await show(paid)).problem.facts.owed, '30 sat');
});
