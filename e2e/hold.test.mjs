// Held payments: the payer's money is in suspense until its call has run, with clients that know
// nothing of it; whatever else becomes of the call, the money goes back.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { startIssuer } from './lib/issuer.mjs';
import { fetchL402, walletAt } from './lib/l402http.mjs';
import { freePort, until } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import {
  accounts, admin, callTool, calls, l402, lightningOffer, published, receiptOf, startBefore,
  startParts, toolCall, unbalanced, verifyLog,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_forecast: { price: '3 sat', ...anonymous },
      get_report: { price: '3 sat', ...anonymous },
      get_slow: { price: '3 sat', ...anonymous },
      get_broken: { price: '3 sat', ...anonymous },
      delete_report: { price: '3 sat', uses: 3, intent: 'read', ...anonymous },
    },
  },
  granted: { tools: { get_forecast: { price: '3 sat' } } },
};
const PRICE_MSAT = 3_000;

const balances = async (parts) => (await fetch(`${parts.lightning}/balances`)).json();

/** What `act` did to a tool and to the money: {value, ran, wallet, held, node}, in msat. */
async function effect(parts, tool, act) {
  const [ran, from] = [await parts.ran(tool), await balances(parts)];
  const value = await act();
  const to = await balances(parts);
  const [wallet, held, node] = ['wallet_msat', 'held_msat', 'node_msat'].map((of) => to[of] - from[of]);
  return { value, ran: (await parts.ran(tool)) - ran, wallet, held, node };
}

/** What a wallet's payment comes to: {preimage} or {error}. */
const pays = (parts, invoice) =>
  parts.pay(invoice).then((preimage) => ({ preimage }), ({ message }) => ({ error: message }));

async function challenge(gateway, at, tool, args, options) {
  const answer = await callTool(gateway, at, tool, args, options);
  const offer = lightningOffer(answer);
  assert.ok(offer, `no Lightning offer: ${answer.status} ${answer.text}`);
  return offer;
}

const isTaken = { wallet: -PRICE_MSAT, held: 0, node: PRICE_MSAT };
const isBack = { wallet: 0, held: 0, node: 0 };
const money = ({ wallet, held, node }) => ({ wallet, held, node });

/** Everything that must hold whenever the gateway is quiet. */
async function isWhole(gateway) {
  await published(gateway);
  const { code, findings, open } = await verifyLog(gateway);
  assert.deepEqual([code, findings, open], [0, [], []]);
  assert.deepEqual(await unbalanced(gateway), []);
  const left = (await accounts(gateway)).filter(({ account, posted, pending_in, pending_out }) =>
    pending_in !== 0n || pending_out !== 0n || (account === 'held' && posted !== 0n));
  assert.deepEqual(left, [], 'nothing is held');
}

describe('a payment that is held', { concurrency: 1 }, () => {
  let parts;
  let issuer;
  let gateway;
  let token;

  before(async () => {
    parts = await startParts();
    const port = await freePort();
    const resource = (at) => `http://127.0.0.1:${port}/${at}/mcp`;
    issuer = await startIssuer({ resources: Object.keys(servers).map(resource) });
    const limits = { quote_ttl: '10s', open_quotes_per_principal: 4096 };
    const config = { servers, issuers: [issuer.url], hold: true, limits };
    gateway = await startBefore(parts, config, { port });
    token = await issuer.userToken('alice', resource('granted'));
  });
  after(async () => {
    await gateway?.stop();
    await issuer?.stop();
    await parts?.stop();
  });

  test('is taken when the call has run, and the retry gets its outcome with the receipt', async () => {
    const args = { city: 'Oslo', ms: 700 };
    const did = await effect(parts, 'get_slow', async () => {
      const offer = await challenge(gateway, 'open', 'get_slow', args);
      const paying = pays(parts, offer.invoice);
      await until('the money is held', async () => (await balances(parts)).held_msat === PRICE_MSAT);
      const { preimage } = await paying;
      const first = await callTool(gateway, 'open', 'get_slow', args, { headers: l402({ ...offer, preimage }) });
      const second = await callTool(gateway, 'open', 'get_slow', args, { headers: l402({ ...offer, preimage }) });
      return [first, second];
    });
    assert.deepEqual([did.ran, money(did)], [1, isTaken]);
    const [first, second] = did.value;
    assert.equal(first.status, 200, first.text);
    assert.equal(first.code, undefined, first.text);
    const [receipt, again] = [receiptOf(first.result), receiptOf(second.result)];
    assert.equal(receipt.rail, 'l402');
    assert.deepEqual([receipt.call, receipt.amount], [again.call, again.amount]);
    assert.equal(first.headers.get('payment-response'), null, 'no answer of another rail');
    await isWhole(gateway);
  });

  test('by stock clients that know nothing of it', async () => {
    const wallet = walletAt(parts.lightning);
    const did = await effect(parts, 'get_forecast', async () => {
      const { url, init } = toolCall(gateway, 'open', 'get_forecast', { city: 'Bergen' });
      const answer = await fetchL402(wallet, url, init);
      return [answer.status, await answer.json()];
    });
    assert.deepEqual([did.ran, money(did)], [1, isTaken]);
    assert.equal(did.value[0], 200);
    assert.ok(did.value[1].result.structuredContent.sky);
    const python = await effect(parts, 'get_forecast', () => {
      const { url, init } = toolCall(gateway, 'open', 'get_forecast', { city: 'Tromsø' });
      const { method, headers, body } = init;
      const job = { requests: [{ url, method, headers, json: JSON.parse(body) }] };
      return pythonJson('l402_http.py', { job, env: { WALLET_URL: parts.lightning } });
    });
    assert.deepEqual([python.ran, money(python)], [1, isTaken], JSON.stringify(python.value));
  });

  test('goes back when the tool fails, and the same call can be asked for again', async () => {
    const did = await effect(parts, 'get_broken', async () => {
      const offer = await challenge(gateway, 'open', 'get_broken', { city: 'Oslo' });
      return [offer, await pays(parts, offer.invoice)];
    });
    assert.deepEqual([did.ran, money(did)], [1, isBack]);
    const [offer, paid] = did.value;
    assert.match(paid.error, /payment_returned/);
    const next = await challenge(gateway, 'open', 'get_broken', { city: 'Oslo' });
    assert.notEqual(next.invoice, offer.invoice);
    await isWhole(gateway);
  });

  test('goes back when consent was revoked in between', async () => {
    const agreed = [
      'grant', 'create', '--issuer', issuer.url, '--subject', 'alice', '--agent', 'web-agent',
      '--server', 'granted', '--tool', 'get_forecast', '--intent', 'read', '--per-call', '1 USD',
      '--expires', '1h',
    ];
    const { grant } = await gateway.cli(...agreed);
    const options = { headers: bearer(token) };
    const did = await effect(parts, 'get_forecast', async () => {
      const offer = await challenge(gateway, 'granted', 'get_forecast', { city: 'Oslo' }, options);
      await gateway.cli('grant', 'revoke', grant.id);
      return [offer, await pays(parts, offer.invoice)];
    });
    assert.deepEqual([did.ran, money(did)], [0, isBack]);
    const [first, paid] = did.value;
    assert.match(paid.error, /payment_returned/);
    await gateway.cli(...agreed);
    const next = await challenge(gateway, 'granted', 'get_forecast', { city: 'Oslo' }, options);
    assert.notEqual(next.invoice, first.invoice, 'the invoice that was given back');
    await isWhole(gateway);
  });

  test('is not asked for after its quote: the invoice is withdrawn', async () => {
    const offer = await challenge(gateway, 'open', 'get_report', { city: 'late' });
    await sleep(11_000);
    const did = await effect(parts, 'get_report', () => pays(parts, offer.invoice));
    assert.deepEqual([did.ran, money(did)], [0, isBack]);
    assert.match(did.value.error, /expired_invoice|payment_returned/);
  });

  test('runs once, however often the node and the client say so', async () => {
    const args = { city: 'Often' };
    const did = await effect(parts, 'get_report', async () => {
      const offer = await challenge(gateway, 'open', 'get_report', args);
      const { preimage } = await pays(parts, offer.invoice);
      const show = () => callTool(gateway, 'open', 'get_report', args, { headers: l402({ ...offer, preimage }) });
      return Promise.all(Array.from({ length: 16 }, show));
    });
    assert.deepEqual([did.ran, money(did)], [1, isTaken]);
    const receipts = new Set(did.value.map((answer) => receiptOf(answer.result)?.call ?? answer.text));
    assert.equal(receipts.size, 1);
  });

  test('is not for credentials of several calls', async () => {
    const args = { city: 'Bundle' };
    const did = await effect(parts, 'delete_report', async () => {
      const offer = await challenge(gateway, 'open', 'delete_report', args);
      return pays(parts, offer.invoice);
    });
    assert.deepEqual([did.ran, money(did)], [0, isTaken]);
    assert.match(did.value.preimage, /^[0-9a-f]{64}$/);
  });
});

describe('a death while money is held', { concurrency: 2 }, () => {
  // By point: whether the money is taken in the end, and whether the tool can have run.
  const points = {
    'held.accepted': { takes: true, runs: 1 },
    permitted: { takes: false, runs: 0 },
    started: { takes: false, runs: 0 },
    ran: { takes: false, runs: 1 },
    finished: { takes: true, runs: 1 },
    settled: { takes: true, runs: 1 },
    // The node has told us so, too.
    'settled, told': { at: 'settled', after_ms: 1_000, takes: true, runs: 1 },
    'held.returning': { takes: false, runs: 1, tool: 'get_broken' },
  };
  for (const [name, point] of Object.entries(points)) {
    const { at = name, after_ms = 0, takes, runs, tool = 'get_slow' } = point;
    test(`at ${name}`, async () => {
      const own = await startParts();
      const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-e2e-'));
      const config = { servers: { open: servers.open }, hold: true, limits: { quote_ttl: '60s' } };
      const live = (env, port) => startBefore(own, config, { dir, env, port });
      let [first, gateway] = [];
      try {
        const death = { COUNTERSIGN_FAILPOINT: at, COUNTERSIGN_FAILPOINT_AFTER_MS: `${after_ms}` };
        first = await live(death);
        const args = { city: name, ms: 1 };
        const did = await effect(own, tool, async () => {
          const offer = await challenge(first, 'open', tool, args);
          const paying = pays(own, offer.invoice);
          await until('the process is gone', () => !first.isRunning());
          gateway = await live({}, first.port);
          const paid = await paying;
          const headers = paid.preimage && l402({ ...offer, preimage: paid.preimage });
          const again = () => callTool(gateway, 'open', tool, args, { headers });
          let retry = headers && await again();
          // Told to repeat it later, it does.
          for (let n = 0; n < 20 && retry?.text.includes('SYS-005'); n++) {
            await sleep(1000);
            retry = await again();
          }
          return { paid, retry };
        });
        const { paid, retry } = did.value;
        assert.deepEqual(money(did), takes ? isTaken : isBack, JSON.stringify(paid));
        assert.equal(did.ran, runs);
        if (takes) assert.equal(receiptOf(retry.result)?.rail, 'l402', retry.text);
        else assert.match(paid.error, /payment_returned/);
        await until('nothing is left to do', async () => {
          const all = await calls(gateway);
          return all.every(({ state }) => ['refused', 'captured', 'released'].includes(state));
        }, { timeout_ms: 30_000 });
        await isWhole(gateway);
        const { body } = await admin(gateway, '/v1/ledger/in-doubt');
        assert.deepEqual(body.items, []);
      } finally {
        await gateway?.stop();
        await first?.stop();
        await own.stop();
        rmSync(dir, { recursive: true, force: true });
      }
    });
  }
});
