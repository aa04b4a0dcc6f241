// Credit: a top-up is a paid call like any other, what is owed back becomes credit, and credit pays
// for calls: never more than there is, never twice for one request.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { startIssuer } from './lib/issuer.mjs';
import { decode } from './lib/macaroon.mjs';
import { freePort, until } from './lib/process.mjs';
import {
  MCP_ACCEPT, accounts, admin, buy, callTool, calls, configBefore, l402, lightningOffer, published,
  receiptOf, startBefore, startParts, unbalanced, verifyLog, x402Challenge,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';
import { payer } from './lib/x402http.mjs';

const servers = {
  weather: {
    tools: {
      top_up: { price: ['0.05 USDC', '100 sat'], consent: 'none', top_up: true, intent: 'read' },
      get_forecast: { price: ['0.01 USDC', '3 sat'], consent: 'none' },
      get_report: { price: '30 sat', consent: 'none' },
      get_broken: { price: ['0.01 USDC', '3 sat'], consent: 'none' },
      get_slow: { price: '3 sat', uses: 3, consent: 'none' },
    },
  },
};

let parts;
let issuer;
let gateway;
before(async () => {
  parts = await startParts();
  const port = await freePort();
  issuer = await startIssuer({ resources: [`http://127.0.0.1:${port}/weather/mcp`] });
  gateway = await startBefore(parts, { servers, issuers: [issuer.url], credit: true }, { port });
});
after(async () => {
  await gateway?.stop();
  await issuer?.stop();
  await parts?.stop();
});

const tokenOf = (person) => issuer.userToken(person, `${gateway.url}/weather/mcp`);
const call = (token, tool, args, extra = {}) =>
  callTool(gateway, 'weather', tool, args, { headers: { ...bearer(token), ...extra } });
const byCredit = (token, tool, args, id) => call(token, tool, args, { 'countersign-credit': id });

/** Pays for a top-up over Lightning. */
async function topUp(token) {
  const paid = await buy(parts, gateway, 'weather', 'top_up', {}, { headers: bearer(token) });
  const answer = await callTool(gateway, 'weather', 'top_up', {}, { headers: l402(paid) });
  assert.equal(answer.status, 200, answer.text);
  return answer;
}

/** All credit that is kept in an asset, in units of its own. */
async function credit(asset) {
  const kept = (await accounts(gateway)).filter((one) => one.account.startsWith('credit:') && one.asset === asset);
  return Number(kept.reduce((sum, { posted }) => sum + posted, 0n)) / 1e12;
}

test('a top-up is listed, asked for, paid and answered like any tool; what it earns is credit', async () => {
  const token = await tokenOf('alice');
  const [ran, earned] = [await parts.ran('get_forecast'), await parts.earnedMsat()];
  const poor = await byCredit(token, 'get_forecast', { city: 'Oslo' }, 'alice-0001');
  assert.deepEqual([poor.status, poor.code], [402, 'PAY-016'], poor.text);
  assert.equal(poor.problem.facts.paid_from, 'credit');
  assert.ok(lightningOffer(poor), 'the ways to pay without credit');
  const before = await credit('sat');
  const answer = await topUp(token);
  assert.match(answer.result.content[0].text, /credit is topped up/);
  assert.deepEqual(receiptOf(answer.result).amount, { asset: 'BTC', minor: '100000' });
  assert.equal(await credit('sat') - before, 100);
  const run = await byCredit(token, 'get_forecast', { city: 'Oslo' }, 'alice-0001');
  assert.ok(run.result.structuredContent.sky, run.text);
  assert.deepEqual(receiptOf(run.result).amount, { asset: 'BTC', minor: '3000' });
  assert.equal(await credit('sat') - before, 97);
  assert.deepEqual([await parts.ran('get_forecast') - ran, await parts.earnedMsat() - earned], [1, 100_000]);
});

test('one request is paid once, whatever is repeated; its name pays for no other', async () => {
  const token = await tokenOf('alice');
  const [ran, before] = [await parts.ran('get_forecast'), await credit('sat')];
  const args = { city: 'repeated' };
  const all = await Promise.all(Array.from({ length: 16 }, () => byCredit(token, 'get_forecast', args, 'alice-0002')));
  assert.ok(all.some(({ status }) => status === 200));
  for (const { status, code } of all) assert.ok(status === 200 || code === 'SYS-005', `${status} ${code}`);
  const again = await byCredit(token, 'get_forecast', args, 'alice-0002');
  assert.ok(again.result._meta['countersign/replay-of'], again.text);
  const other = await byCredit(token, 'get_forecast', { city: 'another' }, 'alice-0002');
  assert.deepEqual([other.status, other.code], [409, 'REQ-017'], other.text);
  assert.deepEqual([await parts.ran('get_forecast') - ran, before - await credit('sat')], [1, 3]);
});

test('of many at once only so many run as there is credit for', async () => {
  const token = await tokenOf('bob');
  await topUp(token);
  const ran = await parts.ran('get_report');
  const all = await Promise.all(Array.from({ length: 12 }, (_, at) =>
    byCredit(token, 'get_report', { at }, `bob-race-${at}`)));
  const statuses = all.map(({ status }) => status);
  assert.equal(statuses.filter((status) => status === 200).length, 3, `${statuses}`);
  for (const { status, code } of all.filter((one) => one.status !== 200)) {
    assert.deepEqual([status, code], [402, 'PAY-016']);
  }
  assert.equal(await parts.ran('get_report') - ran, 3, '100 sat pay for three of 30');
});

test('it is nobody else\'s, and nobody\'s without a token', async () => {
  const mallory = await tokenOf('mallory');
  const answer = await byCredit(mallory, 'get_forecast', { city: 'stolen' }, 'alice-0001');
  assert.deepEqual([answer.status, answer.code], [402, 'PAY-016'], answer.text);
  const nobody = await callTool(gateway, 'weather', 'get_forecast', {}, { headers: { 'countersign-credit': 'nobody-01' } });
  assert.equal(nobody.status, 401, nobody.text);
  const itself = await byCredit(await tokenOf('bob'), 'top_up', {}, 'bob-itself');
  assert.deepEqual([itself.status, itself.code], [402, 'PAY-005'], 'credit comes of money alone');
});

test('a failed call gives it back; in `_meta` it is the same, and never reaches the server', async () => {
  const token = await tokenOf('alice');
  const before = await credit('sat');
  const failed = await byCredit(token, 'get_broken', {}, 'alice-0003');
  assert.equal(failed.result?.isError, true, failed.text);
  assert.equal(failed.result._meta['countersign/charged'], 'no', failed.text);
  assert.equal(await credit('sat'), before);
  const options = { headers: { ...bearer(token), ...MCP_ACCEPT }, meta: { 'countersign/credit': 'alice-0004' } };
  const run = await callTool(gateway, 'weather', 'get_forecast', { city: 'meta' }, options);
  assert.ok(run.result.structuredContent.sky, run.text);
  for (const id of ['short', 'with space', 'x'.repeat(129)]) {
    const bad = await byCredit(token, 'get_forecast', {}, id);
    assert.deepEqual([bad.status, bad.code], [400, 'PAY-002'], id);
  }
  const two = await call(token, 'get_forecast', {}, {
    'countersign-credit': 'alice-0005', 'x-mcp-auth-composite': `Payment ${(await buy(parts, gateway, 'weather', 'get_report', {}, { headers: bearer(token) })).token}:${'00'.repeat(32)}`,
  });
  assert.deepEqual([two.status, two.code], [400, 'REQ-013'], two.text);
});

test('what is owed back of a settled x402 payment becomes credit, and pays', async () => {
  const token = await tokenOf('carol');
  const before = await credit('USDC');
  const asked = await call(token, 'get_broken', { n: 1 });
  const key = `0x${randomBytes(32).toString('hex')}`;
  const payment = await payer(key).createPaymentPayload(x402Challenge(asked));
  const failed = await callTool(gateway, 'weather', 'get_broken', { n: 1 }, {
    headers: bearer(token), meta: { 'x402/payment': payment },
  });
  assert.equal(failed.result?._meta['countersign/charged'], 'yes', failed.text);
  await until('it is credit', async () => {
    const found = (await calls(gateway)).filter(({ tool }) => tool === 'weather/get_broken').at(-1);
    return found.state === 'refunded';
  });
  assert.ok((await credit('USDC')) - before > 0.009);
  const run = await byCredit(token, 'get_forecast', { city: 'with what was owed' }, 'carol-0001');
  assert.ok(run.result.structuredContent.sky, run.text);
  assert.ok(Math.abs((await credit('USDC')) - before) < 1e-9);
});

test('what a revoked bundle leaves becomes credit', async () => {
  const token = await tokenOf('dave');
  const paid = await buy(parts, gateway, 'weather', 'get_slow', { ms: 1 }, { headers: bearer(token) });
  assert.equal((await callTool(gateway, 'weather', 'get_slow', { ms: 1 }, { headers: l402(paid) })).status, 200);
  const before = await credit('sat');
  await gateway.cli('credential', 'revoke', createHash('sha256').update(decode(paid.token).identifier).digest('hex'));
  assert.equal(await credit('sat') - before, 2, 'two of three calls');
});

test('it survives a crash, and the books and the log hold', async () => {
  const before = [await credit('sat'), await credit('USDC')];
  await gateway.kill9();
  await gateway.restart();
  assert.deepEqual([await credit('sat'), await credit('USDC')], before);
  const run = await byCredit(await tokenOf('alice'), 'get_forecast', { city: 'after' }, 'alice-0006');
  assert.equal(run.status, 200, run.text);
  assert.deepEqual(await unbalanced(gateway), []);
  await published(gateway);
  assert.equal((await verifyLog(gateway)).code, 0);
  const { body } = await admin(gateway, '/v1/ledger/refunds');
  assert.deepEqual(body.items, [], 'nothing is owed to anybody who is known');
});

describe('without credit', () => {
  test('none pays, and none can be topped up', async () => {
    const tool = { price: '3 sat', identity: 'anonymous' };
    const plain = await startBefore(parts, { servers: { weather: { tools: { get_forecast: tool } } } });
    try {
      const headers = { 'countersign-credit': 'somebody-1' };
      const answer = await callTool(plain, 'weather', 'get_forecast', {}, { headers });
      assert.deepEqual([answer.status, answer.code], [402, 'PAY-005'], answer.text);
      const tools = { top_up: { price: '1 sat', top_up: true } };
      plain.configure(configBefore(parts, { servers: { weather: { tools } }, issuers: [issuer.url] }));
      const { code, stdout, stderr } = await plain.cliRaw('check');
      assert.equal(code, 2);
      assert.match(stdout + stderr, /nobody can pay from credit here/);
    } finally {
      await plain.stop();
    }
  });
});
