// The configuration replaced while the gateway runs: whole or not at all, for what begins after it,
// with calls under way, sessions, quotes, held money and verified tokens left as they are.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { appendFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { startIssuer } from './lib/issuer.mjs';
import { legacyClient } from './lib/mcpclients.mjs';
import { freePort, until } from './lib/process.mjs';
import {
  MERCHANT, admin, callTool, configBefore, lightningOffer, receiptOf, sha256, startBefore, startParts,
  verifyLog, x402Challenge,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';
import { callPaid, payer } from './lib/x402http.mjs';

const builtin = fileURLToPath(new URL('../crates/gateway/policy/', import.meta.url));
const anonymous = { identity: 'anonymous' };
const forecast = (...price) => ({ tools: { get_forecast: { price, ...anonymous } } });

let parts;
before(async () => (parts = await startParts()));
after(() => parts?.stop());

/** A gateway that is told of another configuration by `become(config)`. */
async function startReloading(t, config, options) {
  const gateway = await startBefore(parts, config, options);
  t.after(async () => {
    await gateway.stop();
    assert.doesNotMatch(gateway.stderr(), /panicked/);
  });
  gateway.write = (other) => gateway.configure(configBefore(parts, other));
  gateway.become = (other) => {
    gateway.write(other);
    return gateway.cli('reload');
  };
  return gateway;
}

/** Its admin socket; with it a command reads no configuration of its own. */
const socketOf = (gateway) => `${gateway.dir}/data/admin.sock`;

/** What a call costs now, on both rails. */
async function priceOf(gateway, at, args) {
  const asked = await callTool(gateway, at, 'get_forecast', args);
  assert.equal(asked.code, 'PAY-001', asked.text);
  const [{ amount }] = x402Challenge(asked).accepts;
  const { invoice } = lightningOffer(asked);
  return { usdc: Number(amount), sat: satOf(invoice), asked };
}

/** The satoshi of a BOLT 11 invoice. */
function satOf(invoice) {
  const [, number, unit] = /^ln(?:bcrt|tbs|tb|bc)(\d+)([munp])1/.exec(invoice);
  return (Number(number) * { m: 1e11, u: 1e8, n: 1e5, p: 100 }[unit]) / 1e6;
}

/** Headers that pay a challenge. */
async function pay(asked) {
  const key = `0x${randomBytes(32).toString('hex')}`;
  const payment = await payer(key).createPaymentPayload(x402Challenge(asked));
  return { 'payment-signature': Buffer.from(JSON.stringify(payment)).toString('base64') };
}

/** The sandbox facilitator, but a settlement waits for `release()`. */
async function startHeldFacilitator(t) {
  const [asked, released] = [deferred(), deferred()];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const part of request.setEncoding('utf8')) body += part;
    if (request.url.endsWith('/settle')) {
      asked.resolve();
      await released.promise;
    }
    const { method } = request;
    const answer = await fetch(`${parts.facilitator}${request.url}`, {
      method, headers: { 'content-type': 'application/json' }, ...(method === 'POST' && { body }),
    });
    response.writeHead(answer.status, { 'content-type': 'application/json' });
    response.end(await answer.text());
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    released.resolve();
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${server.address().port}`;
  return { url, isAsked: asked.promise, release: released.resolve };
}

function deferred() {
  let resolve;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}

const fresh = () => ({ city: randomBytes(6).toString('hex') });

describe('a configuration that is read again', () => {
  test('holds for what begins after it; an open quote stays good', async (t) => {
    const gateway = await startReloading(t, { servers: { one: forecast('0.01 USDC', '10 sat') } });
    const before = await priceOf(gateway, 'one', { city: 'Oslo' });
    assert.deepEqual([before.usdc, before.sat], [10_000, 10]);
    assert.equal((await callTool(gateway, 'two', 'get_forecast', {})).status, 404);

    const servers = {
      one: forecast('0.02 USDC', '20 sat'),
      two: { tools: { get_forecast: { price: 'free', ...anonymous } } },
    };
    const done = await gateway.become({ servers });
    assert.deepEqual(done, {
      file: gateway.configFile, digest: sha256(readFileSync(gateway.configFile)), warnings: [],
    });
    const now = await priceOf(gateway, 'one', fresh());
    assert.deepEqual([now.usdc, now.sat], [20_000, 20]);
    assert.ok((await callTool(gateway, 'two', 'get_forecast', fresh())).result);

    const paid = await callTool(gateway, 'one', 'get_forecast', { city: 'Oslo' }, {
      headers: await pay(before.asked),
    });
    assert.equal(receiptOf(paid.result)?.amount.minor, '10000', paid.text);

    await gateway.become({ servers: { two: servers.two } });
    assert.equal((await callTool(gateway, 'one', 'get_forecast', fresh())).status, 404);

    const { body } = await admin(gateway, '/v1/audit?limit=1000');
    const said = body.records.filter((it) => it.detail?.action === 'configuration.reload');
    assert.equal(said.length, 2, JSON.stringify(body.records.at(-1)));
    assert.equal(said[0].detail.configuration, done.digest);
    assert.match(said[0].detail.operator, /^[0-9a-f]{64}$/);
    assert.equal((await verifyLog(gateway)).code, 0);
  });

  test('is refused whole when anything is wrong with it', async (t) => {
    const { assets } = configBefore(parts, { servers: {} })({ port: 1 });
    const { USDC } = assets;
    const both = { assets: { ...assets, EURC: { ...USDC, address: `0x${'12'.repeat(20)}` } } };
    const one = { ...both, servers: { one: forecast('0.01 USDC', '10 sat') } };
    const two = { ...both, servers: { one: forecast('0.02 USDC', '20 sat') } };
    const gateway = await startReloading(t, one);
    const refused = async (config) => {
      gateway.write(config);
      const { code, stderr } = await gateway.cliRaw('reload', '--socket', socketOf(gateway));
      assert.equal(code, 2, stderr);
      assert.equal((await priceOf(gateway, 'one', fresh())).usdc, 10_000);
      const { error } = JSON.parse(stderr);
      assert.equal(error.code, 'ADM-012');
      return error.message;
    };
    assert.match(await refused({ ...two, budgts: [] }), /budgts.*did you mean `budgets`/);
    const limits = { open_quotes_per_principal: 9 };
    assert.match(await refused({ ...two, limits }), /a change of `limits` takes a new start/);
    const elsewhere = { metrics: { listen: '127.0.0.1:1' }, data_dir: './other' };
    assert.match(await refused({ ...two, ...elsewhere }), /`data_dir`, `metrics` takes a new start/);
    for (const [code, change] of [['EURC', { decimals: 8 }], ['USDC', { version: '3' }]]) {
      const changed = { ...both.assets, [code]: { ...both.assets[code], ...change } };
      assert.match(await refused({ ...two, assets: changed }), /a change of `assets` takes/);
    }
    await gateway.become(two);
    assert.equal((await priceOf(gateway, 'one', fresh())).usdc, 20_000);
  });

  test('says of what is put in force by itself that it is not', async (t) => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-reload-'));
    t.after(() => rmSync(dir, { recursive: true, force: true }));
    cpSync(builtin, dir, { recursive: true });
    const config = { servers: { one: forecast('0.01 USDC', '10 sat') }, policy: { dir } };
    const gateway = await startReloading(t, config);
    assert.deepEqual((await gateway.become(config)).warnings, []);
    appendFileSync(path.join(dir, 'policies.cedar'), '\n@id("none") forbid (principal, action, resource);\n');
    const { warnings } = await gateway.become(config);
    assert.match(warnings.join(), /policy\.dir: it holds another bundle than the one in force/);
    await priceOf(gateway, 'one', fresh());
  });

  test('leaves the wallet of a treasury as it is, and takes its limits', async (t) => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-reload-'));
    t.after(() => rmSync(dir, { recursive: true, force: true }));
    const wallet = path.join(dir, 'wallet');
    const write = () => writeFileSync(wallet, `0x${randomBytes(32).toString('hex')}`, { mode: 0o600 });
    write();
    const of = (per_call) => ({
      treasuries: { main: { wallet: `file:${wallet}`, per_call, per_day: '5 USD' } },
      servers: { one: { ...forecast('0.01 USDC', '10 sat'), pay: 'main' } },
    });
    const gateway = await startReloading(t, of('0.05 USD'));
    await gateway.become(of('0.06 USD'));
    write();
    const { code, stderr } = await gateway.cliRaw('reload');
    assert.equal(code, 2);
    assert.match(stderr, /a change of `treasuries` takes a new start/);
  });

  test('is read on SIGHUP too, and the terminal says how that went', async (t) => {
    const gateway = await startReloading(t, { servers: { one: forecast('0.01 USDC', '10 sat') } });
    gateway.write({ servers: { one: forecast('0.02 USDC', '20 sat') } });
    process.kill(gateway.pid, 'SIGHUP');
    await until('it has reloaded', () => /^reloaded \S+, sha256 [0-9a-f]{64}$/m.test(gateway.stderr()));
    assert.equal((await priceOf(gateway, 'one', fresh())).usdc, 20_000);
    gateway.configure({});
    process.kill(gateway.pid, 'SIGHUP');
    await until('it says no', () => /^not reloaded \(ADM-012\): .*stays in force/m.test(gateway.stderr()));
    assert.equal((await priceOf(gateway, 'one', fresh())).usdc, 20_000);
  });

  test('is never seen by halves: calls go on beside many changes', async (t) => {
    const states = [['0.01 USDC', '10 sat'], ['0.02 USDC', '20 sat']];
    const limits = {
      open_quotes_per_principal: 100_000,
      invoices_per_principal_per_minute: 100_000,
      invoices_per_address_per_minute: 100_000,
    };
    const of = (n) => ({ limits, servers: { one: forecast(...states[n]) } });
    const gateway = await startReloading(t, of(0));
    const client = await legacyClient(`${gateway.url}/one/mcp`);
    t.after(() => client.close());
    let isOver = false;
    const seen = { 10_000: 0, 20_000: 0 };
    const callers = [1, 2, 3, 4, 5, 6].map(async () => {
      while (!isOver) {
        const { usdc, sat } = await priceOf(gateway, 'one', fresh());
        assert.equal(usdc, sat * 1000, 'half of one and half of the other');
        seen[usdc] += 1;
      }
    });
    const ran = await parts.ran('get_forecast');
    let paid = 0;
    const payers = [1, 2].map(async () => {
      while (!isOver) {
        const args = fresh();
        const { asked, usdc } = await priceOf(gateway, 'one', args);
        const headers = await pay(asked);
        const done = await callTool(gateway, 'one', 'get_forecast', args, { headers });
        assert.equal(receiptOf(done.result)?.amount.minor, String(usdc), done.text);
        paid += 1;
      }
    });
    for (let n = 1; n <= 6; n++) {
      await gateway.become(of(n % 2));
      await client.ping();
      await sleep(100);
    }
    isOver = true;
    await Promise.all([...callers, ...payers]);
    assert.ok(seen[10_000] > 0 && seen[20_000] > 0 && paid > 0, JSON.stringify({ seen, paid }));
    assert.equal(await parts.ran('get_forecast'), ran + paid);
    assert.equal((await verifyLog(gateway)).code, 0);
  });

  test('leaves a call alone that runs while its server goes', async (t) => {
    const slow = { tools: { get_slow: { price: 'free', deadline: '30s', ...anonymous } } };
    const one = forecast('0.01 USDC', '10 sat');
    const gateway = await startReloading(t, { servers: { slow, one } });
    const ran = await parts.ran('get_slow');
    const running = callTool(gateway, 'slow', 'get_slow', {});
    await until('it runs', async () => (await parts.ran('get_slow')) > ran);
    await gateway.become({ servers: { one } });
    assert.equal((await callTool(gateway, 'slow', 'get_slow', {})).status, 404);
    assert.ok(receiptOf((await running).result));
  });

  test('leaves a call alone whose server moves while its payment settles', async (t) => {
    const slow = await startHeldFacilitator(t);
    const of = (more) => ({
      rails: { x402: { pay_to: MERCHANT, facilitator: { sandbox: slow.url } } },
      servers: { one: { ...forecast('0.01 USDC'), upstream: parts.server, ...more } },
    });
    const gateway = await startReloading(t, of({}));
    const client = await legacyClient(`${gateway.url}/one/mcp`);
    const ran = await parts.ran('get_forecast');
    const paying = callPaid(client, `0x${randomBytes(32).toString('hex')}`, {
      name: 'get_forecast', arguments: { city: 'Bonn' },
    });
    await slow.isAsked;
    await gateway.become(of({ upstream: `${parts.server}?moved` }));
    slow.release();
    const { result } = await paying;
    assert.equal(receiptOf(result)?.state, 'captured', JSON.stringify(result));
    assert.equal(await parts.ran('get_forecast'), ran + 1);
    // Another address knows nothing of the session: the client is told to begin anew.
    await assert.rejects(client.ping(), /404|[Ss]ession/);
    await client.close().catch(() => {});
  });

  test('leaves money alone that comes for a call which was asked for before', async (t) => {
    const of = (price) => ({ hold: true, servers: { one: forecast('0.01 USDC', price) } });
    const gateway = await startReloading(t, of('10 sat'));
    const { asked } = await priceOf(gateway, 'one', { city: 'Rome' });
    const { token, invoice } = lightningOffer(asked);
    await gateway.become(of('20 sat'));
    const ran = await parts.ran('get_forecast');
    const preimage = await parts.pay(invoice);
    const done = await callTool(gateway, 'one', 'get_forecast', { city: 'Rome' }, {
      headers: { authorization: `L402 ${token}:${preimage}` },
    });
    assert.equal(receiptOf(done.result)?.amount.minor, '10000', done.text);
    assert.equal(await parts.ran('get_forecast'), ran + 1);
  });

  test('takes an issuer away at once, and asks nothing anew of one that stays', async (t) => {
    const port = await freePort();
    const resource = `http://127.0.0.1:${port}/own/mcp`;
    const [stays, goes] = await Promise.all([1, 2].map(() => startIssuer({ resources: [resource] })));
    const servers = { own: { tools: { get_forecast: { price: 'free', consent: 'none' } } } };
    const of = (...issuers) => ({ servers, issuers: issuers.map((issuer) => issuer.url) });
    t.after(() => Promise.all([stays.stop(), goes.stop()]));
    const gateway = await startReloading(t, of(stays, goes), { port });
    const [staying, going] = await Promise.all(
      [stays, goes].map(async (issuer) => bearer(await issuer.userToken('alice', resource))),
    );
    const call = (headers) => callTool(gateway, 'own', 'get_forecast', fresh(), { headers });
    assert.ok((await call(staying)).result);
    assert.ok((await call(going)).result);
    // Its keys are known, and it cannot be asked any more.
    await stays.stop();
    await gateway.become(of(stays));
    assert.ok((await call(staying)).result);
    assert.deepEqual([(await call(going)).status, (await call(going)).code], [401, 'IDN-006']);
  });

  test('brings a budget that holds for the next call', async (t) => {
    const servers = { one: forecast('0.01 USDC', '10 sat') };
    const gateway = await startReloading(t, { servers });
    await priceOf(gateway, 'one', fresh());
    const budgets = [{ name: 'none', limit: '0.001 USD', window: '1d' }];
    await gateway.become({ servers, budgets });
    const refused = await callTool(gateway, 'one', 'get_forecast', fresh());
    assert.match(refused.code, /^BUD-/, refused.text);
  });
});
