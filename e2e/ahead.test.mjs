// `countersign connect --prefetch`: the next credential for several calls is bought once the last use
// of one was made, within the same limits, once, whatever ends the process meanwhile.

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Home, legacyStdio, modernStdio } from './lib/connect.mjs';
import { gatewayBinary } from './lib/gateway.mjs';
import { legacyClient } from './lib/mcpclients.mjs';
import { start, until } from './lib/process.mjs';
import { startBefore, startParts, unbalanced } from './lib/rig.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_broken: { price: 'free', ...anonymous },
      get_forecast: { price: '3 sat', ...anonymous },
      get_report: { price: '3 sat', uses: 2, ...anonymous },
    },
  },
};
const URL_PATH = '/open/mcp';

let parts, gateway, front, wallet;
before(async () => {
  parts = await startParts();
  gateway = await startBefore(parts, { servers });
  front = await startFront(() => gateway.url);
  wallet = await startWallet();
});
after(async () => {
  wallet?.stop();
  front?.stop();
  await gateway?.stop();
  await parts?.stop();
});

async function listen(answer) {
  const server = http.createServer(async (request, response) => {
    let text = '';
    for await (const part of request) text += part;
    await answer(request, response, text);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const stop = () => (server.closeAllConnections(), server.close());
  return { url: `http://127.0.0.1:${server.address().port}`, stop };
}

/** Everything passes on to the gateway; `seen` says what did: `tools/call`, `quote`. */
async function startFront(target) {
  const seen = [];
  const on = await listen((request, response, text) => {
    if (request.url === `${URL_PATH}/quote`) seen.push('quote');
    if (text.includes('"tools/call"')) seen.push('tools/call');
    const { host: _, ...headers } = request.headers;
    const onward = http.request(target() + request.url, { method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    onward.end(text);
  });
  return { ...on, seen };
}

/** The sandbox's wallet, which can be slow to answer: `paid` are the invoices that it was to pay. */
async function startWallet() {
  const own = { paid: [], hold: undefined };
  const known = new Map();
  const on = await listen(async (request, response, text) => {
    if (request.url !== '/pay') return response.writeHead(404).end();
    const { invoice } = JSON.parse(text);
    own.paid.push(invoice);
    if (!known.has(invoice)) known.set(invoice, await parts.pay(invoice));
    await own.hold;
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ preimage: known.get(invoice) }));
  });
  return Object.assign(own, on);
}

/** A wallet that answers nothing until the returned function is called. */
function holding(t) {
  let release;
  wallet.hold = new Promise((resolve) => (release = resolve));
  const let_ = () => (wallet.hold = undefined, release());
  t.after(let_);
  return let_;
}

/** A user of `connect`, and what they did since: what the gateway was asked, what was paid. */
function user(t, { args = ['--prefetch'] } = {}) {
  const home = new Home();
  t.after(() => home.stop());
  const kept = home.wallet([{ kind: 'lightning', url: wallet.url }]);
  const how = home.command(front.url + URL_PATH, ['--wallet', kept, '--max-price', '10 sat', ...args]);
  const [asked, paid] = [front.seen.length, wallet.paid.length];
  return {
    home,
    how,
    asked: () => front.seen.slice(asked),
    paid: () => wallet.paid.slice(paid),
    outcomes: () => home.spent().map(({ outcome }) => outcome),
  };
}

async function report(client, city) {
  const { structuredContent, content, isError } = await client.callTool({ name: 'get_report', arguments: { city } });
  assert.ok(!isError, JSON.stringify(content));
  return structuredContent ?? content;
}

async function open(t, { how }, by = legacyStdio) {
  const client = await by(how);
  t.after(() => client.close());
  return client;
}

/** Uses the first credential up; the wallet pays the next one once `release` is called, which is given. */
async function buying(t, who, client) {
  await report(client, 'one');
  const release = holding(t);
  await report(client, 'two');
  await until('it is being paid', () => who.paid().length === 2);
  return release;
}

const isBought = (who, n) =>
  until('the next one is bought', () => who.outcomes().filter((outcome) => outcome === 'unused').length === n);

for (const by of [legacyStdio, modernStdio]) {
  test(`${by.name}: after the last use the next one is there, and the next call just runs`, async (t) => {
    const who = user(t);
    const client = await open(t, who, by);
    await report(client, 'one');
    assert.deepEqual([who.asked(), who.paid().length], [['tools/call', 'tools/call'], 1]);
    await report(client, 'two');
    await isBought(who, 1);
    assert.deepEqual(who.asked(), ['tools/call', 'tools/call', 'tools/call', 'quote']);
    assert.deepEqual(who.outcomes(), ['paying', 'answered', 'answered', 'paying', 'unused']);
    await until('it says so', () => client.said().includes('bought ahead for get_report: 3 sat over l402'));
    // Nothing more until that one is used up, too.
    await report(client, 'three');
    assert.deepEqual(who.asked().slice(4), ['tools/call'], 'no challenge lies between');
    await sleep(300);
    assert.equal(who.paid().length, 2);
    await report(client, 'four');
    await isBought(who, 2);
    assert.equal(who.paid().length, 3);
    assert.equal(new Set(who.paid()).size, 3);
  });
}

test('without the flag, for a call of one use and for a free one, nothing is bought or asked ahead', async (t) => {
  const plain = user(t, { args: [] });
  const client = await open(t, plain);
  for (const city of ['one', 'two']) await report(client, city);
  const ahead = user(t);
  const other = await open(t, ahead);
  await other.callTool({ name: 'get_forecast', arguments: { city: 'once' } });
  await other.callTool({ name: 'get_broken', arguments: { city: 'free' } });
  await sleep(300);
  assert.ok(![...plain.asked(), ...ahead.asked()].includes('quote'));
  assert.deepEqual([plain.home.spent().length, ahead.outcomes()], [3, ['paying', 'answered']]);
});

test('limits stop it, in one line, and change nothing else', async (t) => {
  const who = user(t, { args: ['--prefetch', '--max-per-hour', '5 sat'] });
  const client = await open(t, who);
  for (const city of ['one', 'two']) await report(client, city);
  const line = await until('it says so', () =>
    client.said().split('\n').find((line) => line.includes('not bought ahead')));
  assert.match(line, /not bought ahead for get_report: .*too much was spent in this hour/);
  assert.equal(who.paid().length, 1);
  const denied = await client.callTool({ name: 'get_report', arguments: { city: 'three' } });
  assert.match(denied.content[0].text, /too much was spent in this hour/);
  assert.deepEqual(who.outcomes(), ['paying', 'answered', 'answered']);
});

test('a call that comes while the next one is bought waits for it, and pays nothing', async (t) => {
  const who = user(t);
  const client = await open(t, who);
  const release = await buying(t, who, client);
  const calls = [report(client, 'three'), report(client, 'four')];
  await sleep(500);
  assert.equal(who.asked().at(-1), 'quote', 'they wait');
  release();
  await Promise.all(calls);
  await isBought(who, 2);
  assert.deepEqual(who.asked().slice(4), ['tools/call', 'tools/call', 'quote']);
  assert.equal(new Set(who.paid()).size, 3);
});

test('killed while it is bought: the next start asks for the same invoice, and pays no second one', async (t) => {
  const who = user(t);
  const client = await legacyStdio(who.how);
  const release = await buying(t, who, client);
  process.kill(client.pid, 'SIGKILL');
  await client.close();
  release();
  assert.equal(who.outcomes().at(-1), 'paying');
  const earned = await parts.earnedMsat();
  const again = await open(t, who);
  await report(again, 'three');
  assert.deepEqual([who.paid().length, who.paid()[2]], [3, who.paid()[1]], 'the same invoice');
  assert.equal(await parts.earnedMsat(), earned, 'which was paid once');
  assert.deepEqual(who.asked().slice(4), ['tools/call']);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  test(`${signal} while it is bought: it is finished and kept before the process ends`, async (t) => {
    const who = user(t);
    const client = await legacyStdio(who.how);
    const release = await buying(t, who, client);
    process.kill(client.pid, signal);
    await sleep(500);
    assert.ok(isAlive(client.pid), 'it waits for the wallet');
    const { pid } = client;
    release();
    await until('the process ends', () => !isAlive(pid));
    await client.close();
    assert.deepEqual(who.outcomes().slice(-2), ['paying', 'unused']);
    const again = await open(t, who);
    await report(again, 'three');
    assert.equal(who.paid().length, 2);
    assert.deepEqual(who.asked().slice(4), ['tools/call']);
  });
}

function isAlive(pid) {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

test('over HTTP the answer does not wait for what is bought after it', async (t) => {
  const who = user(t);
  const part = start(gatewayBinary, [...who.how.args, '--listen', '127.0.0.1:0'], { env: who.how.env });
  t.after(() => part.stop());
  const said = () => /served at (\S+)[^]*Bearer (\S+)/.exec(part.stderr());
  const [, at, token] = await until('it says where it is', said, { part });
  const client = await legacyClient(at, { token });
  t.after(() => client.close());
  await report(client, 'one');
  const release = holding(t);
  // Answered while the wallet still works; also to who reads no events.
  const body = { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'get_report', arguments: { city: 'two' } } };
  const headers = {
    authorization: `Bearer ${token}`, 'content-type': 'application/json', accept: 'application/json',
  };
  const answer = await fetch(at, { method: 'POST', headers, body: JSON.stringify(body) });
  assert.ok((await answer.json()).result);
  await until('it is being paid', () => who.paid().length === 2);
  release();
  await isBought(who, 1);
  await report(client, 'three');
  assert.equal(who.paid().length, 2);
});

test('the books are whole', async () => assert.deepEqual(await unbalanced(gateway), []));
