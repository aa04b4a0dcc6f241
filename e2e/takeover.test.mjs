// Several gateways on one data directory, and directories that are not what they were: one process
// at a time has it, whoever comes after one that died recovers what it held, and what was spent is
// spent, to the cent.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { gatewayBinary } from './lib/gateway.mjs';
import { freePort, start, until } from './lib/process.mjs';
import {
  admin, callTool, configBefore, published, startParts, unbalanced, x402Challenge,
} from './lib/rig.mjs';
import { payer } from './lib/x402http.mjs';

const CENT = 10_000n;
const N = 8;
const open = { price: '0.01 USDC', identity: 'anonymous' };
const config = {
  servers: { open: { tools: { get_forecast: open, get_slow: { ...open, deadline: '30s' } } } },
  // To their callers they are one: the same calls, the same log.
  public_url: 'http://localhost:8402',
  budgets: [{ name: 'ever', limit: `0.0${N - 1} USD`, window: 'lifetime' }],
};

let parts;
const homes = [];
before(async () => (parts = await startParts()));
after(async () => {
  await parts?.stop();
  homes.forEach((home) => rmSync(home, { recursive: true, force: true }));
});

/** Gateways with ports and configurations of their own, all on the directory `data` of `dir`. */
async function gatewaysOnOne(count) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-takeover-'));
  homes.push(dir);
  return Promise.all(Array.from({ length: count }, (_, n) => gatewayOf(dir, `node-${n}`)));
}

async function gatewayOf(dir, name) {
  const port = await freePort();
  const own = path.join(dir, name);
  mkdirSync(own);
  const file = path.join(own, 'countersign.yaml');
  const data_dir = path.join(dir, 'data');
  writeFileSync(file, JSON.stringify({ ...configBefore(parts, config)({ port }), data_dir }));
  const url = `http://127.0.0.1:${port}`;
  const isServing = () => fetch(`${url}/healthz`).then(({ status }) => status === 200, () => false);
  let part;
  return {
    dir,
    url,
    data: data_dir,
    get pid() {
      return part.pid;
    },
    /** Starts it, and waits for nothing. */
    begin: () => (part = start(gatewayBinary, ['serve', '--config', file], { cwd: own })),
    untilServing: () => until('it serves', isServing, { part }),
    serve() {
      this.begin();
      return this.untilServing();
    },
    isRunning: () => part.isRunning(),
    isServing,
    /** How it ended by itself: {code, error}. */
    async ended() {
      const { code } = await part.ended;
      return { code, ...JSON.parse(part.stderr().trim().split('\n').at(-1)) };
    },
    kill9: () => part.kill9(),
    stop: () => part.stop(15_000),
    async cli(...args) {
      const command = start(gatewayBinary, ['--config', file, ...args], { cwd: own });
      const { code } = await command.ended;
      return { code, text: command.output() };
    },
  };
}

/** A payment for one call, and how to show it at any of the gateways. */
async function pay(gateway, tool, args) {
  const asked = await callTool(gateway, 'open', tool, args);
  const challenge = x402Challenge(asked);
  assert.ok(challenge, asked.text);
  const payment = await payer(`0x${randomBytes(32).toString('hex')}`).createPaymentPayload(challenge);
  const encoded = Buffer.from(JSON.stringify(payment)).toString('base64');
  const headers = { 'payment-signature': encoded };
  return (at) => callTool(at, 'open', tool, args, { headers });
}

/** Shows each payment at each gateway, all at once: what those answered that are there. */
async function atAllOf(gateways, payments) {
  const shown = payments.flatMap((show) => gateways.map((gateway) => show(gateway)));
  const answers = await Promise.allSettled(shown);
  const gone = answers.filter(({ status }) => status === 'rejected');
  gone.forEach(({ reason }) => assert.match(`${reason.cause?.code}`, /ECONNREFUSED/));
  return answers.filter(({ value }) => value).map(({ value }) => value.code ?? 'ran').sort();
}

function isRefused({ code, error, exit }, gateway) {
  assert.deepEqual([code, exit, error.code], [18, 18, 'DATA-IN-USE']);
  assert.ok(error.message.includes(gateway.data) && /another process has it/.test(error.message));
  assert.match(error.next, /one gateway serves one data directory/);
}

/** Nothing is half done, the money adds up, the log verifies, and so much of the budget is left. */
async function isExact(gateway, remaining) {
  assert.deepEqual(await unbalanced(gateway), []);
  const { body } = await admin(gateway, '/v1/budgets');
  assert.deepEqual(body.items.map((budget) => budget.remaining), [remaining]);
  await published(gateway);
  const { code, text } = await gateway.cli('audit', 'verify');
  assert.equal(code, 0, text);
}

const paidFor = (gateway, tool, count, args = {}) =>
  Promise.all(Array.from({ length: count }, (_, n) =>
    pay(gateway, tool, { ...args, n, of: randomBytes(4).toString('hex') })));

describe('N parallel calls against a budget of N−1, on three gateways of one directory', () => {
  test('started at once on nothing: one serves, the others say why not; N−1 run', async () => {
    const three = await gatewaysOnOne(3);
    three.forEach((gateway) => gateway.begin());
    await until('two have ended', () => three.filter((gateway) => gateway.isRunning()).length <= 1);
    const [serving] = three.filter((gateway) => gateway.isRunning());
    assert.ok(serving, 'none of them serves');
    for (const gateway of three) if (gateway !== serving) isRefused(await gateway.ended(), gateway);
    await serving.untilServing();
    try {
      const payments = await paidFor(serving, 'get_forecast', N);
      const [ran, earned] = [await parts.ran('get_forecast'), await parts.earnedMinor()];
      const codes = await atAllOf(three, payments);
      assert.deepEqual(codes, ['BUD-001', ...Array(N - 1).fill('ran')]);
      assert.equal(await parts.ran('get_forecast') - ran, N - 1);
      assert.equal(await parts.earnedMinor() - earned, BigInt(N - 1) * CENT);
      await isExact(serving, '0 USD');
    } finally {
      await serving.stop();
    }
  });
});

describe('a gateway that dies while it holds reservations', () => {
  test('another takes over what it held; it comes back and is refused; the budget is exact', async () => {
    const [first, second] = await gatewaysOnOne(2);
    await first.serve();
    const [ran, slow] = [await parts.ran('get_forecast'), await parts.ran('get_slow')];
    assert.deepEqual(await atAllOf([first, second], await paidFor(first, 'get_forecast', 3)),
      Array(3).fill('ran'));
    const held = await paidFor(first, 'get_slow', 2, { ms: 20_000 });
    const lost = Promise.allSettled(held.map((show) => show(first)));
    // Stored as starting, a call is still on its way to its server.
    await until('both run', async () => await parts.ran('get_slow') - slow === 2);
    // The second one waits at the door when the first one dies.
    second.begin();
    await first.kill9();
    assert.ok((await lost).every(({ status }) => status === 'rejected'));
    await second.untilServing();
    first.begin();
    isRefused(await first.ended(), first);
    assert.ok(await second.isServing());

    for (const show of held) {
      const { code, problem, text } = await show(second);
      assert.deepEqual([code, problem?.charged], ['UPS-002', 'yes'], text);
    }
    await isExact(second, '0.02 USD');
    const crowd = await paidFor(second, 'get_forecast', 4);
    const codes = await atAllOf([first, second], crowd);
    assert.deepEqual(codes, ['BUD-001', 'BUD-001', 'ran', 'ran']);
    await second.kill9();
    await first.serve();
    try {
      assert.equal((await callTool(first, 'open', 'get_forecast', { n: 'last' })).code, 'BUD-001');
      assert.equal(await parts.ran('get_forecast') - ran, 5);
      assert.equal(await parts.ran('get_slow') - slow, 2, 'what was under way was not run again');
      await isExact(first, '0 USD');
    } finally {
      await first.stop();
    }
  });

  test('one that only stands still has not died: nobody takes over, and it goes on', async () => {
    const [first, second] = await gatewaysOnOne(2);
    await first.serve();
    try {
      const [show] = await paidFor(first, 'get_forecast', 1);
      process.kill(first.pid, 'SIGSTOP');
      const waiting = show(first);
      second.begin();
      isRefused(await second.ended(), second);
      process.kill(first.pid, 'SIGCONT');
      assert.equal((await waiting).code, undefined);
      await isExact(first, '0.06 USD');
    } finally {
      process.kill(first.pid, 'SIGCONT');
      await first.stop();
    }
  });
});

describe('an old backup is restored', () => {
  test('beside its newer log it is not started, and says so; whole, no payment counts twice', async () => {
    const [gateway] = await gatewaysOnOne(1);
    const backup = path.join(gateway.dir, 'backup');
    const kept = path.join(gateway.dir, 'checkpoint');
    const restore = (...names) => names.forEach((name) => {
      rmSync(path.join(gateway.data, name), { recursive: true, force: true });
      cpSync(path.join(backup, name), path.join(gateway.data, name), { recursive: true });
    });
    await gateway.serve();
    const [show] = await paidFor(gateway, 'get_forecast', 1);
    await gateway.stop();
    cpSync(gateway.data, backup, { recursive: true });

    await gateway.serve();
    const ran = await parts.ran('get_forecast');
    assert.equal((await show(gateway)).code, undefined);
    await isExact(gateway, '0.06 USD');
    cpSync(path.join(gateway.data, 'log', 'checkpoint'), kept);
    await gateway.stop();

    restore('countersign.db');
    gateway.begin();
    const { code, error } = await gateway.ended();
    assert.deepEqual([code, error.code], [18, 'DATA-OLDER-COPY']);
    assert.match(error.message, /records but \d+ were published/);
    assert.match(error.next, /restore the database that belongs to this log/);

    restore('countersign.db', 'log', 'log-synced');
    await gateway.serve();
    try {
      const again = await show(gateway);
      assert.match(again.code, /^PAY-/, again.text);
      assert.equal(await parts.ran('get_forecast'), ran + 1, 'it ran once, in either history');
      await published(gateway);
      const held = await gateway.cli('audit', 'verify', '--checkpoint', kept);
      assert.equal(held.code, 1, 'a checkpoint that was kept elsewhere shows it');
    } finally {
      await gateway.stop();
    }
  });
});
