// How Lightning stands: metrics, alerts, and room to receive, bought by a person's word or by a rule.
// The loop daemon and a provider of channels are doubles made from their published interfaces: what
// they cannot show is whether a release of theirs answers as its documentation says.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { appendFileSync, cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { startLightning } from './lib/lightning.mjs';
import { freePort, until } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import {
  admin, callTool, l402, lightningOffer, receiptOf, startBefore, startParts, verifyLog,
} from './lib/rig.mjs';

const servers = {
  open: {
    tools: {
      get_forecast: { price: '3 sat', identity: 'anonymous' },
      get_broken: { price: '3 sat', identity: 'anonymous' },
    },
  },
};
const BUILTIN = fileURLToPath(new URL('../crates/gateway/policy/', import.meta.url));
const MACAROON = '0201036c6f6f70';
const SECRET = 'a secret that is long enough to be one';
const KEY = 'MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=';

let parts;
let dir;
before(async () => {
  parts = await startParts();
  dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-liquidity-'));
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

/** Serves `route({method, url, headers}, text) -> {status, body}`; remembers what was asked. */
async function serve(route, tls) {
  const seen = [];
  const listener = async (request, response) => {
    let text = '';
    for await (const part of request) text += part;
    const { method, url, headers } = request;
    seen.push({ method, url, headers, text });
    // What lies behind may be gone at the end of a test, before who asks is.
    const broken = () => ({ status: 502 });
    const { status = 200, body = {} } = (await route({ method, url, headers }, text).catch(broken)) ?? {};
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  };
  const server = tls ? https.createServer(tls, listener) : http.createServer(listener);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${server.address().port}`,
    seen,
    stop: () => { server.closeAllConnections(); server.close(); },
  };
}

/** The sandbox's node as countersign-lightning, with balances and a provider of a test's own. */
async function ldkDouble() {
  const double = { inbound_msat: 500_000_000, isGone: false, fee_sat: 700, orders: 0, paid: [], pays: 'succeeded', jit_fee_msat: 2_000 };
  const served = await serve(async ({ method, url }, text) => {
    if (double.isGone) return { status: 500 };
    if (url === '/v1/balances') return { body: { inbound_msat: double.inbound_msat, outbound_msat: 9_000_000 } };
    if (url === '/v1/lsps1/orders') {
      double.orders += 1;
      const { inbound_sat } = JSON.parse(text);
      const made = await fetch(`${parts.lightning}/v1/invoices`, {
        method: 'POST', body: JSON.stringify({ amount_msat: double.fee_sat * 1000, memo: 'channel', expiry_s: 600 }),
      });
      const { bolt11 } = await made.json();
      return {
        status: 201,
        body: { id: `order-${double.orders}`, state: 'unpaid', inbound_sat, outbound_sat: 0, fee_sat: double.fee_sat, total_sat: double.fee_sat, bolt11 },
      };
    }
    if (url === '/v1/payments') {
      double.paid.push(JSON.parse(text));
      return { body: { payment_hash: '00'.repeat(32), state: double.pays } };
    }
    const asked = method === 'POST' && url === '/v1/invoices' ? JSON.parse(text) : {};
    if (asked.jit && asked.max_jit_fee_msat < double.jit_fee_msat) {
      return { status: 422, body: { error: { code: 'liquidity_fee_too_high', message: 'more' } } };
    }
    delete asked.jit;
    delete asked.max_jit_fee_msat;
    const body = method === 'POST' ? (asked.amount_msat ? JSON.stringify(asked) : text) : undefined;
    const answer = await fetch(`${parts.lightning}${url}`, { method, body });
    return { status: answer.status, body: await answer.json() };
  });
  return Object.assign(double, served);
}

/** loopd's REST API, over TLS with a certificate of its own making. */
async function loopDouble() {
  const made = await pythonJson('certificate.py');
  const double = { swaps: [], answers: 200 };
  const served = await serve(async ({ method, url, headers }, text) => {
    if (headers['grpc-metadata-macaroon'] !== MACAROON) {
      return { status: 500, body: { code: 2, message: 'verification failed' } };
    }
    if (method === 'GET' && url.startsWith('/v1/loop/out/quote/')) {
      const amount = Number(/quote\/(\d+)/.exec(url)[1]);
      if (amount < 250_000) return { status: 400, body: { code: 3, message: 'amount is less than minimum' } };
      return { body: { swap_fee_sat: String(amount / 1000), prepay_amt_sat: '100', htlc_sweep_fee_sat: '150', swap_payment_dest: '', cltv_delta: 100, conf_target: 9 } };
    }
    if (method === 'POST' && url === '/v1/loop/out') {
      double.swaps.push(JSON.parse(text));
      if (double.answers !== 200) return { status: double.answers, body: { code: 2, message: 'no' } };
      return { body: { id: `swap-${double.swaps.length}`, id_bytes: '', htlc_address: 'bcrt1', server_message: '' } };
    }
    if (url === '/v1/auto/suggest') {
      return { body: { loop_out: [{ amt: '300000', max_swap_fee: '400', max_miner_fee: '200', max_swap_routing_fee: '30', max_prepay_routing_fee: '5' }], loop_in: [], disqualified: [] } };
    }
    return { status: 404, body: { code: 5, message: 'Not Found' } };
  }, { key: made.key, cert: made.cert });
  return Object.assign(double, served, { cert: made.cert });
}

/** A webhook that checks what it is told. */
async function webhook() {
  const told = [];
  const served = await serve(async ({ headers }, text) => {
    const signed = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${text}`;
    const expected = `v1,${createHmac('sha256', SECRET).update(signed).digest('base64')}`;
    assert.equal(headers['webhook-signature'], expected);
    told.push(JSON.parse(text));
  });
  return { ...served, told };
}

/** A gateway before an LDK double; `l402` is added to its rail. */
async function start({ ldk, l402: members = {}, ...rest }) {
  const source = { ldk: { url: ldk.url, token: `file:${file('token', KEY)}` } };
  return startBefore(parts, {
    servers,
    rails: { l402: { source, network: 'regtest', hold: false, prefetch: 2, ...members } },
    limits: { quote_ttl: '60s', open_quotes_per_principal: 4096 },
    ...rest,
  });
}

async function buys(gateway, args) {
  const offer = lightningOffer(await callTool(gateway, 'open', 'get_forecast', args));
  assert.ok(offer, 'no offer');
  const preimage = await parts.pay(offer.invoice);
  const answer = await callTool(gateway, 'open', 'get_forecast', args, { headers: l402({ ...offer, preimage }) });
  assert.ok(receiptOf(answer.result), answer.text);
}

/** The samples of a Prometheus page: {`name{labels}`: value}. */
function samples(text) {
  const found = {};
  for (const line of text.trim().split('\n')) {
    if (line.startsWith('#')) continue;
    const [, name, value] = /^([a-z_]+(?:\{[^}]*\})?) (-?[0-9.]+)$/.exec(line) ?? [];
    assert.ok(name, `not a sample: ${line}`);
    assert.equal(found[name], undefined, `twice: ${name}`);
    found[name] = Number(value);
  }
  return found;
}

describe('metrics', () => {
  test('say what nodes have, what became of invoices and how soon, in the form of Prometheus', async () => {
    const [ldk, port] = [await ldkDouble(), await freePort()];
    const gateway = await start({ ldk, metrics: { listen: `127.0.0.1:${port}` } });
    const scrape = async () => {
      const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
      assert.equal(answer.status, 200);
      assert.match(answer.headers.get('content-type'), /^text\/plain; version=0\.0\.4/);
      return samples(await answer.text());
    };
    try {
      await until('the node was looked at', async () => (await scrape())['countersign_lightning_up{node="ldk"}'] === 1);
      for (const city of ['a', 'b', 'c']) await buys(gateway, { city });
      assert.ok(lightningOffer(await callTool(gateway, 'open', 'get_forecast', { city: 'never paid' })));
      const seen = await until('payments were seen', async () => {
        const now = await scrape();
        const [paid, ready] = ['invoices_total{node="ldk",state="paid"}', 'invoices_ready{node="ldk"}']
          .map((name) => now[`countersign_lightning_${name}`]);
        return paid === 3 && ready === 2 && now;
      });
      assert.equal(seen['countersign_lightning_inbound_msat{node="ldk"}'], 500_000_000);
      assert.equal(seen['countersign_lightning_outbound_msat{node="ldk"}'], 9_000_000);
      assert.equal(seen['countersign_lightning_invoices_total{node="ldk",state="shown"}'], 4);
      assert.equal(seen['countersign_lightning_payment_success_ratio{node="ldk"}'], 1);
      assert.equal(seen['countersign_lightning_payment_seconds_count{node="ldk"}'], 3);
      const [p50, p99] = ['0.5', '0.99'].map((q) => seen[`countersign_lightning_payment_seconds{node="ldk",quantile="${q}"}`]);
      assert.ok(p50 > 0 && p50 <= p99 && p99 < 20, `${p50}, ${p99}`);
      assert.equal((await fetch(`http://127.0.0.1:${port}/v1/status`)).status, 404, 'nothing else is there');
      const view = await gateway.cli('lightning', 'show');
      const [node] = view.nodes;
      assert.deepEqual([node.invoices_shown, node.invoices_paid, node.success_percent], [4, 3, 100]);
      ldk.isGone = true;
      await until('it is down', async () => (await scrape())['countersign_lightning_up{node="ldk"}'] === 0);
    } finally {
      await gateway.stop();
      ldk.stop();
    }
  });
});

describe('alerts', () => {
  test('are told by signed webhook when a threshold is crossed, stand in the status, and end', async () => {
    const [ldk, hook] = [await ldkDouble(), await webhook()];
    const gateway = await start({
      ldk,
      l402: { alerts: { webhook: 'ops', inbound_below_sat: 200_000, outbound_below_sat: 1 } },
      webhooks: { ops: { url: hook.url, secret: `file:${file('hook', SECRET)}`, allow_private_network: true } },
    });
    try {
      await until('the node was looked at', async () => (await gateway.cli('status')).nodes[0].seen_at);
      await sleep(1_000);
      assert.deepEqual(hook.told, []);
      ldk.inbound_msat = 150_000_000;
      await until('it is told', () => hook.told.length === 1);
      const [{ type, data }] = hook.told;
      assert.equal(type, 'lightning.alert');
      assert.deepEqual(
        [data.node, data.alert, data.state, data.figure_msat, data.threshold_msat],
        ['ldk', 'inbound_low', 'raised', 150_000_000, 200_000_000],
      );
      assert.deepEqual((await gateway.cli('status')).nodes[0].alerts, ['inbound_low']);
      ldk.isGone = true;
      await until('it is gone', () => hook.told.length === 2);
      assert.deepEqual([hook.told[1].data.alert, hook.told[1].data.state], ['unreachable', 'raised']);
      Object.assign(ldk, { isGone: false, inbound_msat: 300_000_000 });
      await until('both ended', () => hook.told.filter(({ data: { state } }) => state === 'ended').length === 2, { timeout_ms: 90_000 });
      assert.deepEqual((await gateway.cli('status')).nodes[0].alerts, []);
    } finally {
      await gateway.stop();
      ldk.stop();
      hook.stop();
    }
  });
});

describe('room to receive', { concurrency: 1 }, () => {
  let ldk;
  let loop;
  let gateway;
  let rail;
  const limits = { max_fee_sat: 1_000, max_per_day_sat: 1_000_000 };
  before(async () => {
    [ldk, loop] = [await ldkDouble(), await loopDouble()];
    rail = {
      loop: {
        url: loop.url, macaroon: `file:${file('loop.hex', MACAROON)}`, certificate: file('loop.cert', loop.cert),
      },
    };
    gateway = await start({ ldk, l402: { ...rail, rebalance: limits } });
  });
  after(async () => {
    await gateway?.stop();
    ldk?.stop();
    loop?.stop();
  });

  const lightning = (...args) => gateway.cli('lightning', ...args.map(String));
  const fails = async (...args) => {
    const { code, stderr } = await gateway.cliRaw('lightning', ...args.map(String));
    assert.notEqual(code, 0);
    return stderr;
  };

  test('is quoted by loop, LSPS1 and LSPS2, and nothing is paid', async () => {
    const swap = await lightning('quote', '--via', 'loop', '--amount-sat', 250_000);
    assert.deepEqual([swap.fee_sat, swap.amount_sat], [250 + 150, 250_000]);
    const channel = await lightning('quote', '--via', 'lsps1', '--amount-sat', 500_000);
    assert.deepEqual([channel.fee_sat, channel.reference], [700, 'order-1']);
    const open = await lightning('quote', '--via', 'lsps2', '--amount-sat', 1_000, '--max-fee-sat', 3);
    assert.equal(open.fee_sat, 3);
    assert.match(await fails('quote', '--via', 'lsps2', '--amount-sat', 1_000, '--max-fee-sat', 1), /wants more/);
    assert.match(await fails('quote', '--via', 'lsps2', '--amount-sat', 1_000), /max_fee_sat/);
    assert.match(await fails('quote', '--via', 'loop', '--amount-sat', 1), /refuses/);
    assert.deepEqual([loop.swaps, ldk.paid], [[], []]);
  });

  test('is advised by the loop daemon', async () => {
    const { items } = await lightning('suggest');
    assert.deepEqual(items.map(({ from, amount_sat, max_fee_sat }) => [from, amount_sat, max_fee_sat]), [['loop', 300_000, 635]]);
  });

  test('is bought by command: a swap within its limits, with a record of who wanted it', async () => {
    const done = await lightning('rebalance', '--via', 'loop', '--amount-sat', 250_000, '--max-fee-sat', 600);
    assert.deepEqual([done.stage, done.reference, done.fee_sat], ['accepted', 'swap-1', 400]);
    const [swap] = loop.swaps;
    assert.equal(swap.amt, '250000');
    const most = ['max_swap_fee', 'max_miner_fee', 'max_swap_routing_fee', 'max_prepay_routing_fee'].map((of) => Number(swap[of]));
    assert.equal(most.reduce((sum, fee) => sum + fee), 600, 'the limits add up to what it may cost');
    const { body } = await admin(gateway, '/v1/audit?limit=20');
    const record = body.records.find(({ action }) => action === 'lightning.rebalance') ??
      body.records.find((one) => JSON.stringify(one).includes('lightning.rebalance'));
    assert.ok(record, JSON.stringify(body.records));
    const { rebalances } = await lightning('show');
    assert.deepEqual(rebalances.map(({ via, stage }) => [via, stage]), [['loop', 'accepted']]);
  });

  test('is bought by command: a channel, whose invoice is paid once', async () => {
    const done = await lightning('rebalance', '--via', 'lsps1', '--amount-sat', 300_000);
    assert.deepEqual([done.stage, done.fee_sat], ['done', 700]);
    assert.equal(ldk.paid.length, 1);
    assert.equal(ldk.paid[0].max_fee_msat, 300_000, 'what the limit leaves is for routing');
  });

  test('never costs more than is configured, nor moves more in a day', async () => {
    ldk.fee_sat = 1_001;
    assert.match(await fails('rebalance', '--via', 'lsps1', '--amount-sat', 300_000, '--max-fee-sat', 9_999), /1001 sat, more than 1000/);
    ldk.fee_sat = 700;
    assert.match(await fails('rebalance', '--via', 'lsps1', '--amount-sat', 450_001), /within a day, more than 1000000/);
    assert.match(await fails('rebalance', '--via', 'lsps2', '--amount-sat', 1_000), /opens by itself/);
    assert.deepEqual([ldk.paid.length, loop.swaps.length], [1, 1]);
  });

  test('that may have been bought counts; that was refused does not', async () => {
    loop.answers = 400;
    const refused = await gateway.cliRaw('lightning', 'rebalance', '--via', 'loop', '--amount-sat', '250000');
    assert.deepEqual([refused.code, JSON.parse(refused.stdout).stage], [1, 'failed']);
    loop.answers = 500;
    const unknown = await gateway.cliRaw('lightning', 'rebalance', '--via', 'loop', '--amount-sat', '250000');
    assert.deepEqual([unknown.code, JSON.parse(unknown.stdout).stage], [16, 'unknown']);
    loop.answers = 200;
    assert.match(await fails('rebalance', '--via', 'loop', '--amount-sat', 250_000), /within a day/);
    await gateway.restart();
    assert.match(await fails('rebalance', '--via', 'loop', '--amount-sat', 250_000), /within a day/);
    const { code, findings } = await verifyLog(gateway);
    assert.deepEqual([code, findings], [0, []]);
  });

  test('is bought by the rule, once, while little can be received', async () => {
    const low = await ldkDouble();
    const rule = { inbound_below_sat: 100_000, amount_sat: 250_000, via: 'loop' };
    const own = await start({ ldk: low, l402: { ...rail, rebalance: { ...limits, rule } } });
    try {
      const before = loop.swaps.length;
      await sleep(6_000);
      assert.equal(loop.swaps.length, before, 'enough can be received');
      low.inbound_msat = 50_000_000;
      await until('it swaps', () => loop.swaps.length === before + 1);
      await sleep(6_000);
      assert.equal(loop.swaps.length, before + 1, 'once');
      const { rebalances } = await own.cli('lightning', 'show');
      assert.deepEqual(rebalances.map(({ by, via, stage }) => [by, via, stage]), [['rule', 'loop', 'accepted']]);
      const { items } = await own.cli('lightning', 'suggest');
      assert.deepEqual(items[0].from, 'rule');
      assert.match(items[0].because, /50000 sat can be received, less than 100000/);
    } finally {
      await own.stop();
      low.stop();
    }
  });

  test('is bought only where policy lets it pass, by command and by the rule', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-policy-'));
    cpSync(BUILTIN, dir, { recursive: true });
    appendFileSync(path.join(dir, 'policies.cedar'), `
      @id("room.cheap") @reason("ROOM_TOO_DEAR")
      forbid (principal, action == Action::"spend", resource == Tool::"countersign/rebalance")
      when { context.price.micros > 300000 };
    `);
    const low = await ldkDouble();
    low.inbound_msat = 50_000_000;
    const rule = { inbound_below_sat: 100_000, amount_sat: 300_000, via: 'lsps1' };
    const own = await start({ ldk: low, l402: { ...rail, rebalance: { ...limits, rule } }, policy: { dir } });
    try {
      // 700 sat are 0.42 USD, 400 are 0.24.
      const dear = await own.cliRaw('lightning', 'rebalance', '--via', 'lsps1', '--amount-sat', '300000');
      assert.equal(dear.code, 2, dear.stderr);
      assert.match(dear.stderr, /policy does not let it pass: ROOM_TOO_DEAR/);
      await until('the rule asked for it', () => low.orders === 2);
      await sleep(6_000);
      assert.equal(low.orders, 2, 'and rests');
      assert.deepEqual(low.paid, [], 'nobody was asked to move money');
      assert.deepEqual((await own.cli('lightning', 'show')).rebalances, []);
      const cheap = await own.cli('lightning', 'rebalance', '--via', 'loop', '--amount-sat', '250000');
      assert.equal(cheap.stage, 'accepted');
    } finally {
      await own.stop();
      low.stop();
      rmSync(dir, { recursive: true });
    }
  });

  test('is only quoted where no limits are configured', async () => {
    const own = await start({ ldk, l402: rail });
    try {
      const { code, stderr } = await own.cliRaw('lightning', 'rebalance', '--via', 'loop', '--amount-sat', '250000');
      assert.notEqual(code, 0);
      assert.match(stderr, /rails\.l402\.rebalance/);
      assert.equal((await own.cli('lightning', 'quote', '--via', 'loop', '--amount-sat', '250000')).fee_sat, 400);
    } finally {
      await own.stop();
    }
  });
});

test('a real provider says whether it opens a channel with a payment for that fee (LSPS2)', async () => {
  const network = await startLightning({
    nodes: [
      ['provider', () => ({ lsps2_service: { opening_fee_ppm: 10_000, opening_fee_min_msat: 0 } })],
      ['merchant', ({ provider: { node_id, address } }) => ({ liquidity: { lsps2: { node_id, address } } })],
    ],
    channels: [],
  });
  const { merchant } = network.nodes;
  const ldk = { url: merchant.url, token: `file:${merchant.tokenFile}` };
  const gateway = await startBefore(parts, { servers, rails: { l402: { source: { ldk }, network: 'regtest' } } });
  const quote = (...args) => gateway.cliRaw('lightning', 'quote', '--via', 'lsps2', '--amount-sat', '100000', ...args);
  try {
    // One percent of 100,000 sat.
    const enough = await quote('--max-fee-sat', '1000');
    assert.deepEqual([enough.code, JSON.parse(enough.stdout || '{}').fee_sat], [0, 1_000], enough.stderr);
    const little = await quote('--max-fee-sat', '999');
    assert.notEqual(little.code, 0);
    assert.match(little.stderr, /wants more than that/);
    // No provider of orders is configured there.
    const order = await gateway.cliRaw('lightning', 'quote', '--via', 'lsps1', '--amount-sat', '500000');
    assert.match(order.stderr, /none is configured/);
  } finally {
    await gateway.stop();
    await network.stop();
  }
});
