// LND, phoenixd and Core Lightning behind L402, as doubles made from their published APIs over the
// sandbox's node: real invoices, pretended money. What they cannot show is whether a release of
// theirs answers as its documentation says.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { until } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import {
  accounts, callTool, l402, lightningOffer, receiptOf, startBefore, startParts,
} from './lib/rig.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_forecast: { price: '3 sat', ...anonymous },
      get_broken: { price: '3 sat', ...anonymous },
      get_report: { price: '1500 msat', uses: 2, ...anonymous },
    },
  },
};
const MACAROON = '0201036c6e64';
const PASSWORD = 'limited-access';
const RUNE = 'cnVuZQ==';
const b64 = (hex) => Buffer.from(hex, 'hex').toString('base64');
const unb64 = (text) => Buffer.from(text, 'base64').toString('hex');

let parts;
let dir;
before(async () => {
  parts = await startParts();
  dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-nodes-'));
});
after(async () => {
  await parts?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const file = (name, text) => {
  const at = path.join(dir, name);
  writeFileSync(at, text, { mode: 0o600 });
  return at;
};

/** The sandbox's own API: {status, body}. */
async function node(method, where, body) {
  const answer = await fetch(`${parts.lightning}${where}`, { method, body: body && JSON.stringify(body) });
  return { status: answer.status, body: await answer.json() };
}
const create = (amount_msat, memo, expiry_s, payment_hash) =>
  node('POST', '/v1/invoices', { amount_msat, memo, expiry_s, payment_hash });

/** Serves `route(request, body) -> {status, body}`; remembers what was asked. */
async function serve(route, tls) {
  const seen = [];
  const listener = async (request, response) => {
    let text = '';
    for await (const part of request) text += part;
    seen.push({ method: request.method, url: request.url, headers: request.headers, text });
    const { status = 200, body = {} } = await route(request, text).catch((error) => ({ status: 500, body: { message: error.message } }));
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  };
  const server = tls ? https.createServer(tls, listener) : http.createServer(listener);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const scheme = tls ? 'https' : 'http';
  return {
    url: `${scheme}://127.0.0.1:${server.address().port}`,
    seen,
    stop: () => { server.closeAllConnections(); server.close(); },
  };
}

/** LND's REST API, over TLS with a certificate of its own making. */
async function lndDouble() {
  const made = await pythonJson('certificate.py');
  const hashes = [];
  const show = async (hash) => {
    const { status, body } = await node('GET', `/v1/invoices/${hash}`);
    if (status === 404) return undefined;
    const state = { open: 'OPEN', accepted: 'ACCEPTED', settled: 'SETTLED', cancelled: 'CANCELED', expired: 'CANCELED' }[body.state];
    return {
      state, r_hash: b64(hash), amt_paid_msat: String(body.amount_received_msat ?? 0),
      htlcs: state === 'ACCEPTED' ? [{ expiry_height: 180, state: 'ACCEPTED' }] : [],
    };
  };
  const ended = async (where, body) => {
    const { status } = await node('POST', where, body);
    return status === 200 ? {} : { status: 500, body: { code: 2, message: 'invoice already ended' } };
  };
  const double = await serve(async (request, text) => {
    if (request.headers['grpc-metadata-macaroon'] !== MACAROON) {
      return { status: 500, body: { code: 2, message: 'verification failed' } };
    }
    const { method, url } = request;
    const asked = text ? JSON.parse(text) : {};
    if (method === 'POST' && ['/v1/invoices', '/v2/invoices/hodl'].includes(url)) {
      const hash = asked.hash && unb64(asked.hash);
      const { body } = await create(Number(asked.value_msat), asked.memo, Number(asked.expiry), hash);
      hashes.push(body.payment_hash);
      return { body: { payment_request: body.bolt11, r_hash: b64(body.payment_hash) } };
    }
    if (url === '/v2/invoices/settle') {
      const hash = (await import('node:crypto')).createHash('sha256').update(Buffer.from(asked.preimage, 'base64')).digest('hex');
      return ended(`/v1/invoices/${hash}/settle`, { preimage: unb64(asked.preimage) });
    }
    if (url === '/v2/invoices/cancel') return ended(`/v1/invoices/${unb64(asked.payment_hash)}/cancel`, {});
    if (url.startsWith('/v1/invoice/')) {
      const found = await show(url.slice('/v1/invoice/'.length));
      return found ? { body: found } : { status: 404, body: { code: 5, message: 'unable to locate invoice' } };
    }
    if (url.startsWith('/v1/invoices?')) {
      const all = await Promise.all(hashes.map(show));
      return { body: { invoices: all.filter(({ state }) => ['OPEN', 'ACCEPTED'].includes(state)) } };
    }
    if (url === '/v1/getinfo') return { body: { block_height: 100 } };
    if (url === '/v1/balance/channels') {
      return { body: { local_balance: { sat: '0', msat: '0' }, remote_balance: { sat: '1000', msat: '1000000' } } };
    }
    return { status: 404, body: { code: 5, message: 'Not Found' } };
  }, { key: made.key, cert: made.cert });
  return { ...double, cert: made.cert };
}

/** phoenixd's API: forms in, whole satoshi, nothing held. */
async function phoenixdDouble() {
  const hashes = [];
  const show = async (paymentHash) => {
    const { status, body } = await node('GET', `/v1/invoices/${paymentHash}`);
    if (status === 404) return undefined;
    const isPaid = body.state === 'settled';
    return { paymentHash, isPaid, isExpired: body.state === 'expired', completedAt: isPaid ? Date.now() : null };
  };
  return serve(async ({ method, url, headers }, text) => {
    if (headers.authorization !== `Basic ${Buffer.from(`:${PASSWORD}`).toString('base64')}`) return { status: 401 };
    if (method === 'POST' && url === '/createinvoice') {
      const form = new URLSearchParams(text);
      const { body } = await create(Number(form.get('amountSat')) * 1000, form.get('description'), Number(form.get('expirySeconds')));
      hashes.push(body.payment_hash);
      return { body: { amountSat: Number(form.get('amountSat')), paymentHash: body.payment_hash, serialized: body.bolt11 } };
    }
    if (url.startsWith('/payments/incoming/')) {
      const found = await show(url.slice('/payments/incoming/'.length));
      return found ? { body: found } : { status: 404 };
    }
    if (url.startsWith('/payments/incoming?')) {
      return { body: (await Promise.all(hashes.map(show))).filter(({ isPaid }) => isPaid) };
    }
    if (url === '/getinfo') return { body: { nodeId: '02', channels: [{ balanceSat: 5, inboundLiquiditySat: 1000 }] } };
    return { status: 404 };
  });
}

/** Core Lightning's clnrest: every method a POST, by a rune. */
async function clnDouble() {
  const hashes = [];
  return serve(async ({ url, headers }, text) => {
    if (headers.rune !== RUNE) return { status: 401, body: { code: 1501, message: 'Not authorized' } };
    const asked = JSON.parse(text);
    if (url === '/v1/invoice') {
      assert.match(asked.label, /^countersign-[0-9a-f]{32}$/);
      const { body } = await create(asked.amount_msat, asked.description, asked.expiry);
      hashes.push(body.payment_hash);
      return { status: 201, body: { payment_hash: body.payment_hash, bolt11: body.bolt11 } };
    }
    if (url === '/v1/listinvoices') {
      const { status, body } = await node('GET', `/v1/invoices/${asked.payment_hash}`);
      const word = { open: 'unpaid', settled: 'paid', expired: 'expired' }[body.state];
      return { status: 201, body: { invoices: status === 404 ? [] : [{ status: word }] } };
    }
    if (url === '/v1/waitanyinvoice') {
      for (let tries = 0; tries < 20; tries++) {
        for (const [at, payment_hash] of hashes.entries()) {
          const { body } = await node('GET', `/v1/invoices/${payment_hash}`);
          if (at + 1 > asked.lastpay_index && body.state === 'settled') {
            return { status: 201, body: { pay_index: at + 1, payment_hash, status: 'paid' } };
          }
        }
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return { status: 500, body: { code: 904, message: 'Timed out' } };
    }
    if (url === '/v1/listpeerchannels') {
      return { status: 201, body: { channels: [{ state: 'CHANNELD_NORMAL', receivable_msat: 1_000_000, spendable_msat: 5_000 }] } };
    }
    return { status: 404, body: { code: -32601, message: 'Unknown command' } };
  });
}

/** A gateway before these sources. */
const gatewayOver = (source) =>
  startBefore(parts, {
    servers,
    rails: { l402: { source, network: 'regtest' } },
    limits: { quote_ttl: '60s', open_quotes_per_principal: 4096 },
  });

async function challenge(gateway, tool, args) {
  const answer = await callTool(gateway, 'open', tool, args);
  const offer = lightningOffer(answer);
  assert.ok(offer, `no Lightning offer: ${answer.status} ${answer.text}`);
  return offer;
}

/** Pays for a call and makes it; what came in, in msat. */
async function buys(gateway, tool, args) {
  const earned = await parts.earnedMsat();
  const offer = await challenge(gateway, tool, args);
  const preimage = await parts.pay(offer.invoice);
  const answer = await callTool(gateway, 'open', tool, args, { headers: l402({ ...offer, preimage }) });
  return { answer, earned: (await parts.earnedMsat()) - earned };
}

describe('a double of LND', { concurrency: 1 }, () => {
  let double;
  let gateway;
  before(async () => {
    double = await lndDouble();
    const certificate = file('tls.cert', double.cert);
    const macaroon = `file:${file('invoice.hex', MACAROON)}`;
    gateway = await gatewayOver({ lnd: { url: double.url, macaroon, certificate } });
  });
  after(async () => {
    await gateway?.stop();
    double?.stop();
  });

  test('holds the money until the call has run, over TLS by its certificate', async () => {
    const { answer, earned } = await buys(gateway, 'get_forecast', { city: 'LND' });
    assert.equal(receiptOf(answer.result)?.rail, 'l402', answer.text);
    assert.equal(earned, 3_000);
    const asked = double.seen.map(({ url }) => url);
    assert.ok(asked.includes('/v2/invoices/hodl') && asked.includes('/v2/invoices/settle'));
  });

  test('gives it back when the call fails', async () => {
    const earned = await parts.earnedMsat();
    const offer = await challenge(gateway, 'get_broken', { city: 'LND' });
    await assert.rejects(parts.pay(offer.invoice), /payment_returned/);
    assert.equal(await parts.earnedMsat(), earned);
    assert.ok(double.seen.some(({ url }) => url === '/v2/invoices/cancel'));
  });

  test('plain invoices, for credentials of several calls, to the millisatoshi', async () => {
    const { answer, earned } = await buys(gateway, 'get_report', { city: 'LND' });
    assert.equal(receiptOf(answer.result)?.rail, 'l402', answer.text);
    assert.equal(earned, 1_500);
  });

  test('the doctor says what it can receive', async () => {
    const { stdout } = await gateway.cliRaw('doctor');
    const line = JSON.parse(stdout).find(({ what }) => what === 'l402 lnd');
    assert.deepEqual([line.health, line.found], ['ok', 'answers, and can receive 1000 sat']);
    const { nodes: [seen], held } = await gateway.cli('status');
    assert.deepEqual([seen.name, seen.inbound_msat, seen.problem], ['lnd', 1_000_000, null]);
    assert.deepEqual(held, { calls: 0, msat: 0 });
  });

  test('under another certificate nothing is offered, and nothing is told', async () => {
    const { cert } = await pythonJson('certificate.py');
    const before = double.seen.length;
    const macaroon = `file:${file('other.hex', MACAROON)}`;
    const other = await gatewayOver({ lnd: { url: double.url, macaroon, certificate: file('other.cert', cert) } });
    try {
      const answer = await callTool(other, 'open', 'get_forecast', { city: 'other' });
      assert.equal(answer.code, 'PAY-018', answer.text);
      assert.ok(!double.seen.slice(before).some(({ text }) => text.includes('other')));
    } finally {
      await other.stop();
    }
  });
});

for (const [name, start, access, whole] of [
  ['phoenixd', phoenixdDouble, () => ({ password: `file:${file('password', PASSWORD)}` }), true],
  ['cln', clnDouble, () => ({ rune: `file:${file('rune', RUNE)}` }), false],
]) {
  describe(`a double of ${name}`, { concurrency: 1 }, () => {
    let double;
    let gateway;
    before(async () => {
      double = await start();
      gateway = await gatewayOver({ [name]: { url: double.url, ...access() } });
    });
    after(async () => {
      await gateway?.stop();
      double?.stop();
    });

    test('a call is paid outright, and runs', async () => {
      const { answer, earned } = await buys(gateway, 'get_forecast', { city: name });
      assert.equal(receiptOf(answer.result)?.rail, 'l402', answer.text);
      assert.equal(earned, 3_000);
    });

    test('what was paid and never used is on the books', async () => {
      const earned = await parts.earnedMsat();
      const offer = await challenge(gateway, 'get_report', { city: name });
      await parts.pay(offer.invoice);
      // phoenixd knows whole satoshi: rounded up, never down.
      assert.equal((await parts.earnedMsat()) - earned, whole ? 2_000 : 1_500);
      await until('the purchase is booked', async () =>
        (await accounts(gateway)).some(({ account, posted }) => account === 'available' && posted > 0n));
    });
  });
}

test('the second node makes the invoice when the first is gone', async () => {
  const [first, second] = [await phoenixdDouble(), await clnDouble()];
  const gateway = await gatewayOver([
    { phoenixd: { url: first.url, password: `file:${file('first', PASSWORD)}` } },
    { cln: { url: second.url, rune: `file:${file('second', RUNE)}` } },
  ]);
  try {
    await challenge(gateway, 'get_forecast', { city: 'first' });
    assert.ok(first.seen.some(({ url }) => url === '/createinvoice'));
    assert.ok(!second.seen.some(({ url }) => url === '/v1/invoice'));
    first.stop();
    const { answer } = await buys(gateway, 'get_forecast', { city: 'second' });
    assert.ok(receiptOf(answer.result), answer.text);
  } finally {
    await gateway.stop();
    second.stop();
  }
});
