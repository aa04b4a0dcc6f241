// What a gateway bears: floods of refusals, slow facilitators, crowds of connections, foreign hosts,
// and a stop in mid-call.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, request } from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { startIssuer } from './lib/issuer.mjs';
import { freePort, until } from './lib/process.mjs';
import {
  MERCHANT, admin, callTool, calls, published, receiptOf, startBefore, startParts, toolCall,
  x402Challenge,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';
import { payer } from './lib/x402http.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_forecast: { price: '0.01 USDC', ...anonymous },
      // Somebody must confirm it, and nobody in particular cannot.
      delete_report: { price: 'free', intent: 'delete', ...anonymous },
    },
  },
  own: { tools: { get_forecast: { price: '0.01 USDC', consent: 'none' } } },
  slow: { tools: { get_slow: { price: '0.01 USDC', deadline: '30s', ...anonymous } } },
};
const { own: _own, ...anybodys } = servers;

let parts;
before(async () => (parts = await startParts()));
after(() => parts?.stop());

/** Headers that pay for a call. */
async function payFor(gateway, at, tool, args) {
  const asked = await callTool(gateway, at, tool, args);
  const key = `0x${randomBytes(32).toString('hex')}`;
  const payment = await payer(key).createPaymentPayload(x402Challenge(asked));
  const encoded = Buffer.from(JSON.stringify(payment)).toString('base64');
  return { headers: { 'payment-signature': encoded } };
}

describe('refusals', () => {
  let issuer, gateway, headers;
  before(async () => {
    const port = await freePort();
    const resource = `http://127.0.0.1:${port}/own/mcp`;
    issuer = await startIssuer({ resources: [resource] });
    gateway = await startBefore(parts, {
      servers, issuers: [issuer.url], limits: { open_quotes_per_principal: 2 },
    }, { port });
    headers = bearer(await issuer.userToken('alice', resource));
  });
  after(async () => {
    await gateway?.stop();
    await issuer?.stop();
  });

  test('for which no challenge could be made are recorded under their code', async () => {
    const ask = (city) => callTool(gateway, 'own', 'get_forecast', { city }, { headers });
    assert.equal((await ask('one')).code, 'PAY-001');
    assert.equal((await ask('two')).code, 'PAY-001');
    for (const city of ['three', 'three', 'four']) {
      const answer = await ask(city);
      assert.deepEqual([answer.status, answer.code], [429, 'REQ-019'], answer.text);
      assert.equal(answer.headers.get('payment-required'), null);
      assert.equal(answer.problem.charged, 'no');
      assert.equal(answer.problem.proofs.payment, 'missing');
      const { body } = await admin(gateway, `/v1/calls/${answer.problem.call_id}`);
      assert.deepEqual([body.call.state, body.call.code], ['refused', 'REQ-019']);
      assert.equal(body.log.at(-1).refusal, 'REQ-019');
    }
    assert.equal((await ask('one')).code, 'PAY-001', 'an open quote is shown again');
  });

  test('of nobody in particular are counted: only a new quote is a record', async () => {
    const known = async () => [(await published(gateway)).records, (await calls(gateway)).length];
    const [records, rows] = await known();
    const ask = (city) => callTool(gateway, 'open', 'get_forecast', { city });
    const first = await ask('Oslo');
    assert.equal(first.code, 'PAY-001');
    assert.deepEqual(await known(), [records + 2, rows + 1], 'a quote and its refusal');
    const offers = x402Challenge(first).accepts;
    for (let n = 0; n < 30; n++) {
      const again = await ask('Oslo');
      assert.deepEqual([again.code, x402Challenge(again).accepts], ['PAY-001', offers]);
      const refused = await callTool(gateway, 'open', 'delete_report', { n });
      assert.ok(refused.status >= 400 && refused.code !== 'PAY-001', refused.text);
    }
    assert.deepEqual(await known(), [records + 2, rows + 1], 'a flood was written down');
    // An identified one leaves a record each time.
    const own = await callTool(gateway, 'own', 'get_forecast', { city: 'one' }, { headers });
    assert.equal(own.code, 'PAY-001');
    assert.equal((await known())[1], rows + 2);
  });
});

describe('a facilitator that stalls', () => {
  test('verifies 64 payments at once; the next one is told to come back', async () => {
    const waiting = [];
    const facilitator = createServer(async (request, response) => {
      for await (const _part of request);
      waiting.push(() => {
        response.writeHead(200, { 'content-type': 'application/json' });
        response.end('{"isValid":false,"invalidReason":"insufficient_funds"}');
      });
    });
    await new Promise((resolve) => facilitator.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${facilitator.address().port}`;
    const gateway = await startBefore(parts, {
      servers: anybodys, rails: { x402: { pay_to: MERCHANT, facilitator: { url } } },
    });
    try {
      const paid = [];
      for (let n = 0; n < 70; n++) paid.push(await payFor(gateway, 'open', 'get_forecast', { n }));
      const answers = [];
      const asking = paid.map((headers, n) =>
        callTool(gateway, 'open', 'get_forecast', { n }, headers).then((answer) => answers.push(answer)));
      await until('the others are sent away', () => answers.length === 6);
      for (const answer of answers) {
        assert.deepEqual([answer.status, answer.code], [503, 'SYS-002'], answer.text);
        assert.equal(answer.headers.get('retry-after'), '1');
        assert.equal(answer.problem.charged, 'no');
      }
      await until('64 are asked', () => waiting.length === 64);
      waiting.splice(0).forEach((answer) => answer());
      await Promise.all(asking);
      const others = answers.slice(6).map(({ code }) => code);
      assert.deepEqual(others, Array(64).fill('PAY-016'), 'those inside had their answer');
      const again = callTool(gateway, 'open', 'get_forecast', { n: 69 }, paid[69]);
      await until('there is room again', () => waiting.length === 1);
      waiting.pop()();
      await again;
    } finally {
      facilitator.closeAllConnections();
      facilitator.close();
      await gateway.stop();
    }
  });
});

describe('connections', () => {
  test('of one address are so many; those beyond are closed, and a place is had again', async () => {
    const gateway = await startBefore(parts, {
      servers: anybodys, limits: { connections_per_address: 8 },
    });
    const sockets = [];
    try {
      const closed = new Set();
      for (let n = 0; n < 16; n++) {
        const socket = net.connect(gateway.port, '127.0.0.1');
        await new Promise((resolve) => socket.once('connect', resolve).on('error', resolve));
        socket.on('close', () => closed.add(socket)).on('error', () => closed.add(socket));
        socket.resume();
        sockets.push(socket);
      }
      // What asked whether it is healthy holds a place, or has given it back.
      await until('those beyond are closed', () => closed.size >= 8);
      await sleep(300);
      assert.ok(closed.size === 8 || closed.size === 9, `${closed.size} of 16 were closed`);
      sockets.forEach((socket) => socket.destroy());
      const isHealthy = async () => (await fetch(`${gateway.url}/healthz`)).status === 200;
      await until('there is room again', isHealthy);
    } finally {
      sockets.forEach((socket) => socket.destroy());
      await gateway.stop();
    }
  });
});

describe('a host that is not ours', () => {
  test('is refused on loopback: a page whose name points here (DNS rebinding)', async () => {
    const gateway = await startBefore(parts, { servers: anybodys });
    const { port } = gateway;
    const ask = (host, path = '/healthz') => new Promise((resolve, reject) => {
      request({ host: '127.0.0.1', port, path, headers: { host } }, (answer) => {
        let text = '';
        answer.setEncoding('utf8').on('data', (part) => (text += part));
        answer.on('end', () => resolve({ status: answer.statusCode, text }));
      }).on('error', reject).end();
    });
    try {
      for (const host of [`127.0.0.1:${port}`, `localhost:${port}`, `[::1]:${port}`, 'LOCALHOST']) {
        assert.equal((await ask(host)).status, 200, host);
      }
      for (const host of [`evil.example:${port}`, '127.0.0.1.evil.example', '192.0.2.1']) {
        for (const path of ['/healthz', '/open/mcp', '/.well-known/oauth-protected-resource/open/mcp']) {
          const { status, text } = await ask(host, path);
          assert.deepEqual([status, JSON.parse(text).code], [403, 'REQ-008'], `${host}${path}: ${text}`);
        }
      }
    } finally {
      await gateway.stop();
    }
  });
});

describe('a stop in mid-call', () => {
  /** A paid call of a slow tool, under way. */
  async function underWay(gateway, ms) {
    const args = { ms, of: randomBytes(4).toString('hex') };
    const paid = await payFor(gateway, 'slow', 'get_slow', args);
    const answer = callTool(gateway, 'slow', 'get_slow', args, paid);
    answer.catch(() => {});
    await until('the tool runs', async () =>
      (await calls(gateway)).some(({ state }) => state === 'starting'));
    return { answer, show: () => callTool(gateway, 'slow', 'get_slow', args, paid) };
  }

  test('the caller gets its answer, however long the tool may take; then the process ends well', async () => {
    const gateway = await startBefore(parts, { servers: anybodys });
    try {
      const { answer } = await underWay(gateway, 14_000);
      process.kill(gateway.pid, 'SIGTERM');
      const { status, result, text } = await answer;
      assert.equal(status, 200, text);
      assert.ok(receiptOf(result), text);
      await until('the process is gone', () => !gateway.isRunning());
    } finally {
      const { code, signal } = await gateway.stop();
      assert.deepEqual([code, signal], [0, null], gateway.stderr());
    }
  });

  test('a caller that hung up: the call is ended all the same', async () => {
    const gateway = await startBefore(parts, { servers: anybodys });
    try {
      const args = { ms: 4_000, of: 'hung up' };
      const paid = await payFor(gateway, 'slow', 'get_slow', args);
      const gone = new AbortController();
      const { url, init } = toolCall(gateway, 'slow', 'get_slow', args, paid);
      const lost = assert.rejects(fetch(url, { ...init, signal: gone.signal }));
      await until('the tool runs', async () =>
        (await calls(gateway)).some(({ state }) => state === 'starting'));
      gone.abort();
      await lost;
      process.kill(gateway.pid, 'SIGTERM');
      await until('the process is gone', () => !gateway.isRunning());
      assert.equal((await gateway.stop()).code, 0, gateway.stderr());
    } finally {
      await gateway.stop();
    }
  });

  test('a second signal ends it at once; what ran is in doubt, and said so', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-limits-'));
    const gateway = await startBefore(parts, { servers: anybodys }, { dir });
    let second;
    try {
      const { answer, show } = await underWay(gateway, 20_000);
      process.kill(gateway.pid, 'SIGTERM');
      await sleep(500);
      assert.ok(gateway.isRunning(), 'it waits for the call');
      process.kill(gateway.pid, 'SIGTERM');
      await until('the process is gone', () => !gateway.isRunning(), { timeout_ms: 3_000 });
      await assert.rejects(answer);
      assert.notEqual((await gateway.stop()).code, 0);
      second = await startBefore(parts, { servers: anybodys }, { dir, port: gateway.port });
      const again = await show();
      assert.deepEqual([again.code, again.problem?.charged], ['UPS-002', 'yes'], again.text);
    } finally {
      await gateway.stop();
      await second?.stop();
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
