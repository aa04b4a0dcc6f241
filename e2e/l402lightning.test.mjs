// L402 through the gateway on a real Lightning network: four nodes, real channels and HTLCs, stock
// clients. What is said of money is compared on both sides, in millisatoshi.

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';

import { fetchAnyRail, fetchL402, walletAt } from './lib/l402http.mjs';
import { atRest, balances, kill, pay, restart, startLightning } from './lib/lightning.mjs';
import { until } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import {
  MODERN_META, accounts, callTool, calls, l402, lightningOffer, modernHeaders, published,
  receiptOf, startBefore, startParts, toolCall, unbalanced, verifyLog,
} from './lib/rig.mjs';

const anonymous = { identity: 'anonymous' };
const PRICE_MSAT = 3_000;
const servers = {
  open: {
    tools: {
      get_forecast: { price: '3 sat', ...anonymous },
      get_report: { price: '3 sat', ...anonymous },
      get_slow: { price: '3 sat', ...anonymous },
      get_broken: { price: '3 sat', ...anonymous },
      // A thousand times this is more than the merchant's node could receive.
      delete_report: { price: '1500 sat', intent: 'read', ...anonymous },
      status: { price: '3 sat', uses: 3, ...anonymous },
    },
  },
  hasty: { tools: { get_slow: { price: '3 sat', deadline: '2s', ...anonymous } } },
};

let network;
let parts;
let gateway;
let wallet;
let nodes;

before(async () => {
  network = await startLightning({
    // Nodes forward over channels that nobody else knows only where they serve as providers.
    nodes: [
      'merchant',
      ['router', () => ({ lsps2_service: { opening_fee_ppm: 0, opening_fee_min_msat: 0 } })],
      'payer',
      'second',
    ],
    channels: [['router', 'merchant'], ['payer', 'router'], ['second', 'merchant', { capacity_sat: 300_000, push_msat: 50_000_000 }]],
  });
  ({ nodes } = network);
  parts = await startParts();
  const source = { ldk: { url: nodes.merchant.url, token: `file:${nodes.merchant.tokenFile}` } };
  gateway = await startBefore(parts, {
    servers,
    rails: { l402: { source, network: 'regtest', inbound_factor: 1000 } },
    limits: { quote_ttl: '60s', open_quotes_per_principal: 4096 },
  });
  wallet = await startWallet(nodes.payer);
});
after(async () => {
  await gateway?.stop();
  wallet?.close();
  await parts?.stop();
  await network?.stop();
});

/** A wallet behind a URL, as stock clients have it: POST {"invoice"} -> {"preimage"}. */
async function startWallet(node) {
  const server = http.createServer(async (request, response) => {
    let text = '';
    for await (const part of request) text += part;
    const paid = await pay(node, JSON.parse(text).invoice).catch((error) => ({ reason: error.message }));
    const isPaid = paid.state === 'succeeded';
    response.writeHead(isPaid ? 200 : 400, { 'content-type': 'application/json' });
    response.end(JSON.stringify(isPaid ? { preimage: paid.preimage } : { error: paid.reason ?? paid.state }));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** What `act` did: {value, ran, earned, spent}, both sides in msat once nothing is on its way. */
async function effect(tool, act, from = nodes.payer) {
  const rest = () => atRest(nodes.merchant, from);
  const [ran, before] = [await parts.ran(tool), await rest()];
  const value = await act();
  const later = await rest();
  const [earned, back] = later.map(({ outbound_msat }, at) => outbound_msat - before[at].outbound_msat);
  return { value, ran: (await parts.ran(tool)) - ran, earned, spent: 0 - back };
}

async function challenge(tool, args, at = 'open') {
  const answer = await callTool(gateway, at, tool, args);
  const offer = lightningOffer(answer);
  assert.ok(offer, `no Lightning offer: ${answer.status} ${answer.text}`);
  return offer;
}

const present = (tool, args, offer, preimage) =>
  callTool(gateway, 'open', tool, args, { headers: l402({ ...offer, preimage }) });

/** A payment over the router costs its fee as well. */
const costs = (did, msat) => {
  assert.equal(did.earned, msat, 'what the merchant earned');
  assert.ok(did.spent >= msat && did.spent <= msat + 1_010, `the payer spent ${did.spent}`);
};

async function isWhole() {
  await until('nothing is left to do', async () =>
    (await calls(gateway)).every(({ state }) => ['refused', 'captured', 'released'].includes(state)),
  { timeout_ms: 60_000 });
  await published(gateway);
  const { code, findings, open } = await verifyLog(gateway);
  assert.deepEqual([code, findings, open], [0, [], []]);
  assert.deepEqual(await unbalanced(gateway), []);
}

describe('stock clients', { concurrency: 1 }, () => {
  for (const [name, fetcher] of [['fetchWithL402', fetchL402], ['fetch402', fetchAnyRail]]) {
    test(`npm @getalby/lightning-tools ${name}`, async () => {
      const did = await effect('get_forecast', async () => {
        const { url, init } = toolCall(gateway, 'open', 'get_forecast', { city: name });
        const answer = await fetcher(walletAt(wallet.url.replace(/\/$/, '')), url, init);
        return [answer.status, await answer.json()];
      });
      assert.equal(did.value[0], 200, JSON.stringify(did.value[1]));
      assert.ok(did.value[1].result.structuredContent.sky);
      assert.equal(did.ran, 1);
      costs(did, PRICE_MSAT);
    });
  }

  test('PyPI l402-requests', async () => {
    const did = await effect('get_forecast', () => {
      const { url, init: { method, headers, body } } = toolCall(gateway, 'open', 'get_forecast', { city: 'requests' });
      const job = { requests: [{ url, method, headers, json: JSON.parse(body) }] };
      return pythonJson('l402_http.py', { job, env: { WALLET_URL: wallet.url } });
    });
    assert.equal(did.value.responses[0].status, 200, JSON.stringify(did.value));
    assert.equal(did.ran, 1);
    costs(did, PRICE_MSAT);
  });

  test('PyPI bolthub inside MCP', async () => {
    const did = await effect('get_forecast', () => {
      const job = {
        url: `${gateway.url}/open/mcp`,
        headers: modernHeaders('tools/call', 'get_forecast'),
        max_sats: 10,
        calls: [{ tool: 'get_forecast', arguments: { city: 'bolthub' }, meta: MODERN_META }],
      };
      return pythonJson('bolthub_mcp.py', { job, env: { WALLET_URL: wallet.url } });
    });
    assert.ok(did.value.results[0].structuredContent.sky, JSON.stringify(did.value));
    assert.equal(did.ran, 1);
    costs(did, PRICE_MSAT);
  });
});

describe('held money', { concurrency: 1 }, () => {
  test('is captured when the call has run: without a router, to the millisatoshi', async () => {
    const args = { city: 'Oslo', ms: 300 };
    const did = await effect('get_slow', async () => {
      const offer = await challenge('get_slow', args);
      const paid = await pay(nodes.second, offer.invoice);
      assert.equal(paid.state, 'succeeded');
      return present('get_slow', args, offer, paid.preimage);
    }, nodes.second);
    assert.equal(receiptOf(did.value.result)?.rail, 'l402', did.value.text);
    assert.deepEqual([did.ran, did.earned, did.spent], [1, PRICE_MSAT, PRICE_MSAT]);
  });

  test('is released when it fails, at no fee', async () => {
    const did = await effect('get_broken', async () => {
      const offer = await challenge('get_broken', { city: 'Oslo' });
      return pay(nodes.payer, offer.invoice);
    });
    assert.equal(did.value.state, 'failed', JSON.stringify(did.value));
    assert.deepEqual([did.ran, did.earned, did.spent], [1, 0, 0]);
    await isWhole();
  });

  test('is not asked for where the node could not receive it', async () => {
    const answer = await callTool(gateway, 'open', 'delete_report', { city: 'dear' });
    assert.equal(lightningOffer(answer), undefined, answer.text);
    assert.equal(answer.problem.charged, 'no');
    assert.equal(answer.code, 'PAY-018', answer.text);
  });

  test('a bundle is paid outright, and what was paid and never used is on the books', async () => {
    const did = await effect('status', async () => {
      const offer = await challenge('status', {});
      return pay(nodes.second, offer.invoice);
    }, nodes.second);
    assert.equal(did.value.state, 'succeeded');
    assert.deepEqual([did.earned, did.spent], [PRICE_MSAT, PRICE_MSAT]);
    await until('the purchase is booked', async () =>
      (await accounts(gateway)).some(({ account, posted }) => account === 'available' && posted > 0n));
    assert.deepEqual(await unbalanced(gateway), []);
  });
});

describe("the merchant's node dies", { concurrency: 1 }, () => {
  test('after the challenge: the invoice is paid when it is back', async () => {
    const args = { city: 'after the challenge' };
    const offer = await challenge('get_report', args);
    await atRest(nodes.merchant, nodes.second);
    await kill(nodes.merchant);
    await restart(nodes.merchant);
    const did = await effect('get_report', async () => {
      const paid = await pay(nodes.second, offer.invoice);
      assert.equal(paid.state, 'succeeded', JSON.stringify(paid));
      return present('get_report', args, offer, paid.preimage);
    }, nodes.second);
    assert.ok(receiptOf(did.value.result), did.value.text);
    assert.deepEqual([did.ran, did.earned, did.spent], [1, PRICE_MSAT, PRICE_MSAT]);
  });

  test('while the call runs: it is settled when the node is back, and the outcome was kept', async () => {
    const args = { city: 'while it runs', ms: 4_000 };
    const did = await effect('get_slow', async () => {
      const offer = await challenge('get_slow', args);
      const paying = pay(nodes.second, offer.invoice, { wait_s: 60 });
      await until('the call runs', async () =>
        (await calls(gateway)).some(({ state }) => state === 'starting'));
      await atRest(nodes.merchant, nodes.second);
      await kill(nodes.merchant);
      await until('the outcome is kept', async () =>
        (await calls(gateway)).some(({ state }) => state === 'finished'), { timeout_ms: 20_000 });
      await restart(nodes.merchant);
      const paid = await paying;
      assert.equal(paid.state, 'succeeded', JSON.stringify(paid));
      return present('get_slow', args, offer, paid.preimage);
    }, nodes.second);
    assert.ok(receiptOf(did.value.result), did.value.text);
    assert.deepEqual([did.ran, did.earned, did.spent], [1, PRICE_MSAT, PRICE_MSAT]);
    await isWhole();
  });

  test('before it gives back: the money goes back when it is there again', async () => {
    const args = { ms: 3_500, of: 'before it gives back' };
    const did = await effect('get_slow', async () => {
      const offer = await challenge('get_slow', args, 'hasty');
      const paying = pay(nodes.second, offer.invoice, { wait_s: 60 });
      const stands = (wanted) => until(`the call is ${wanted}`, async () =>
        (await calls(gateway)).some(({ state }) => state === wanted), { timeout_ms: 20_000 });
      await stands('starting');
      await atRest(nodes.merchant, nodes.second);
      await kill(nodes.merchant);
      await stands('in_doubt');
      await restart(nodes.merchant);
      return (await paying).state;
    }, nodes.second);
    assert.deepEqual([did.value, did.earned, did.spent], ['failed', 0, 0]);
    await isWhole();
  });
});

describe('the gateway dies', { concurrency: 1 }, () => {
  test('while money is held: its call runs, or the money goes back, and never both', async () => {
    const args = { city: 'the gateway dies', ms: 3_000 };
    const did = await effect('get_slow', async () => {
      const offer = await challenge('get_slow', args);
      const paying = pay(nodes.second, offer.invoice, { wait_s: 60 });
      await until('the call runs', async () =>
        (await calls(gateway)).some(({ state }) => state === 'starting'));
      gateway.kill9();
      await gateway.restart();
      return (await paying).state;
    }, nodes.second);
    assert.deepEqual([did.value, did.earned, did.spent], ['failed', 0, 0]);
    await isWhole();
    const { inbound_msat } = await balances(nodes.merchant);
    assert.ok(inbound_msat > 0);
  });
});
