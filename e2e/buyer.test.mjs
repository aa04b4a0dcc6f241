// Two gateways in a row: the second sells, the first buys for people from its treasury, under their
// grants, its policy and its budgets; both ledgers agree, and a death at any point neither pays
// twice nor forgets a payment.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Parts } from './lib/gate.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { freePort, until } from './lib/process.mjs';
import {
  MERCHANT, TOKEN, accounts, admin, callTool, calls, published, receiptOf, startBefore, startParts,
  unbalanced, verifyLog,
} from './lib/rig.mjs';
import { startOwnServer } from './lib/tap.mjs';
import { bearer } from './lib/wire.mjs';

const KEY = `0x${randomBytes(32).toString('hex')}`;
const anonymous = { identity: 'anonymous' };
/** What the seller asks: one tool for each rail, one for both, one for nothing. */
const SOLD = {
  get_report: { price: '3 sat', ...anonymous },
  get_forecast: { price: '0.01 USDC', ...anonymous },
  get_slow: { price: '3 sat', idempotent: true, ...anonymous },
  get_broken: { price: '0.01 USDC', ...anonymous },
  delete_report: { price: 'free', ...anonymous },
};
const RAILS = { l402: 'get_report', x402: 'get_forecast' };
const PRICE = { l402: '3 sat', x402: '0.01 USDC' };

const parts = new Parts();
let sandbox, seller, issuer, buyer, port, ports;

const wallet = (...wallets) => JSON.stringify({ wallets });
const evm = { kind: 'evm', private_key: KEY };
const lightning = () => ({ kind: 'lightning', url: sandbox.lightning });
const resource = (server, at = port) => `http://127.0.0.1:${at}/${server}/mcp`;
const bought = Object.fromEntries(Object.keys(SOLD).map((tool) => [tool, { price: 'upstream', intent: 'read' }]));

/** The buyer's configuration before a seller. */
const configured = (upstream, { servers, treasury, ...more } = {}) => ({
  issuers: [issuer.url],
  treasuries: { main: { wallet: 'env:E2E_TREASURY', per_call: '0.05 USD', per_day: '5 USD', ...treasury } },
  servers: servers ?? { shop: { upstream, pay: 'main', tools: bought } },
  budgets: [{ name: 'all', scope: {}, limit: '100 USD', window: 'lifetime' }],
  limits: { quote_ttl: '10s' },
  ...more,
});

const env = () => ({ E2E_TREASURY: wallet(evm, lightning()) });
const startBuyer = (upstream, more = {}, options = {}) =>
  startBefore(sandbox, configured(upstream, more), { port, env: env(), ...options });

before(() =>
  parts.starting(async () => {
    ports = [await freePort(), await freePort()];
    [port] = ports;
    sandbox = await parts.keep('sandbox', startParts());
    seller = await parts.keep('seller', startBefore(sandbox, { servers: { shop: { tools: SOLD } } }));
    issuer = await parts.keep('issuer', startIssuer({ resources: ports.flatMap((at) => ['shop', 'other'].map((server) => resource(server, at))) }));
    buyer = await parts.keep('buyer', startBuyer(`${seller.url}/shop/mcp`));
  }),
);
after(() => parts.stop());

/** A person with a token, and a grant unless told otherwise. */
async function person(gateway, subject, terms = {}, server = 'shop') {
  const token = await issuer.userToken(subject, resource(server, gateway.port));
  if (terms) {
    const all = { issuer: issuer.url, subject, agent: 'web-agent', server, 'per-call': '0.05 USD', expires: '1h', tool: '*', intent: 'read', ...terms };
    await gateway.cli('grant', 'create', ...Object.entries(all).flatMap(([name, value]) => [`--${name}`, value]));
  }
  const call = (tool, args = {}, options = {}) =>
    callTool(gateway, options.server ?? server, tool, args, { headers: { ...bearer(token), accept: 'application/json, text/event-stream' } });
  return { token, call };
}

const walletMsat = async () => (await sandbox.balances()).wallet_msat;
const account = async (gateway, name, asset) =>
  (await accounts(gateway)).find((one) => one.account === name && one.asset === asset)?.posted ?? 0n;
const refused = (answer) => [answer.code, answer.problem?.charged];

/** Everything that must hold whenever both gateways are quiet. */
async function agree() {
  for (const gateway of [buyer, seller]) {
    await published(gateway);
    const { code, findings } = await verifyLog(gateway);
    assert.deepEqual([code, findings], [0, []]);
    assert.deepEqual(await unbalanced(gateway), []);
  }
  for (const asset of ['sat', 'USDC']) {
    const paid = await account(buyer, 'paid_out:shop', asset);
    assert.equal(paid, await account(seller, 'payable:shop', asset), `${asset}: both ledgers agree`);
  }
}

describe('a priced tool of a second gateway', { concurrency: 1 }, () => {
  for (const [rail, tool] of Object.entries(RAILS)) {
    test(`${rail}: is paid from the treasury under a person's grant, and both ledgers agree`, async () => {
      const { call } = await person(buyer, `alice-${rail}`);
      const [ran, msat, settled] = [await sandbox.ran(tool), await walletMsat(), await sandbox.settled()];
      const answer = await call(tool, { city: 'Oslo' });
      assert.equal(answer.code, undefined, answer.text);
      assert.ok(answer.result.content.length > 0, answer.text);
      assert.equal((await sandbox.ran(tool)) - ran, 1);
      assert.equal(msat - (await walletMsat()), rail === 'l402' ? 3000 : 0);
      assert.equal((await sandbox.settled()) - settled, rail === 'l402' ? 0 : 1);
      const receipt = receiptOf(answer.result);
      assert.equal(receipt.rail, 'treasury');
      const [one] = (await calls(seller)).filter(({ state }) => state === 'captured').slice(-1);
      assert.equal(one.rail, rail, 'the seller was paid on its rail');
      const [own] = (await calls(buyer)).filter(({ call }) => call === receipt.call);
      assert.deepEqual([own.state, own.rail], ['captured', 'treasury']);
      assert.ok(receipt.payment_ref, 'the payment is named');
      assert.equal(await account(buyer, 'treasury', rail === 'l402' ? 'sat' : 'USDC'), -(await account(buyer, 'paid_out:shop', rail === 'l402' ? 'sat' : 'USDC')));
      assert.deepEqual((await accounts(buyer)).filter(({ account, posted }) => account === 'held' && posted !== 0n), []);
      await agree();
    });
  }

  test('counts in budgets, at its price', async () => {
    const { call } = await person(buyer, 'berta');
    const micros = async () => {
      const { body } = await admin(buyer, '/v1/budgets');
      return Math.round(Number.parseFloat(body.items[0].remaining) * 1e6);
    };
    const left = await micros();
    await call('get_forecast', { city: 'Berlin' });
    assert.equal(left - (await micros()), 10_000);
    // 3 sat at 60,000 USD, rounded against the spender.
    await call('get_report', { city: 'Berlin' });
    assert.equal(left - (await micros()), 11_800);
    await agree();
  });

  test('is not asked what it costs for a question alone: its server hears nothing', async () => {
    const { token } = await person(buyer, 'asks');
    const [msat, sold] = [await walletMsat(), (await calls(seller)).length];
    const asked = await fetch(`${resource('shop')}/quote`, {
      method: 'POST',
      headers: { ...bearer(token), 'content-type': 'application/json' },
      body: JSON.stringify({ tool: 'get_report', arguments: { city: 'asked' } }),
    });
    assert.deepEqual([asked.status, (await asked.json()).code], [502, 'UPS-007']);
    assert.deepEqual([await walletMsat(), (await calls(seller)).length], [msat, sold]);
  });

  test('is quoted before it is paid: without a grant the price is told, nothing is paid, and a yes lets it run', async () => {
    const { call } = await person(buyer, 'carol', null);
    const [msat, ran] = [await walletMsat(), await sandbox.ran('get_report')];
    const asked = await call('get_report', { city: 'Rome' });
    assert.deepEqual(refused(asked), ['CNS-001', 'no'], asked.text);
    assert.equal(asked.problem.facts.price, '3 sat');
    assert.deepEqual([await walletMsat(), await sandbox.ran('get_report')], [msat, ran], 'nothing moved');
    await buyer.cli('approvals', 'approve', asked.problem.facts.approval);
    const answer = await call('get_report', { city: 'Rome' });
    assert.equal(answer.code, undefined, answer.text);
    assert.equal(msat - (await walletMsat()), 3000);
    await agree();
  });

  test('above the cap of a grant, or the budget: nothing is paid', async () => {
    const capped = await person(buyer, 'dora', { 'per-call': '0.001 USD' });
    const settled = await sandbox.settled();
    const over = await capped.call('get_forecast', { city: 'Paris' });
    assert.match(over.code, /^CNS-/, over.text);
    assert.equal(over.problem.charged, 'no');
    assert.equal(await sandbox.settled(), settled);
    await agree();
  });

  test('that asks for no money is not let pass', async () => {
    const { call } = await person(buyer, 'emil');
    const answer = await call('delete_report', {});
    assert.deepEqual(refused(answer), ['UPS-007', 'no'], answer.text);
    await agree();
  });

  test('whose tool fails: what the seller took is owed by it, and what it did not take is free', async () => {
    const { call } = await person(buyer, 'finn');
    const answer = await call('get_broken', { city: 'Cork' });
    const charged = answer.result?._meta?.['countersign/charged'];
    const last = (await calls(buyer)).at(-1);
    if (charged === 'no') assert.equal(last.state, 'released', answer.text);
    else assert.deepEqual([charged, last.state], ['yes', 'refund_due'], answer.text);
    const owed = await account(buyer, 'refunds_due', 'USDC');
    assert.equal(owed, await account(seller, 'refunds_due', 'USDC'), 'both say what is owed back');
    await agree();
  });

  test('tells nobody the key', async () => {
    const secret = KEY.slice(2);
    assert.ok(!buyer.stderr().includes(secret) && !buyer.stdout().includes(secret));
    const log = path.join(buyer.dir, 'data', 'log');
    for (const file of readdirSync(log, { recursive: true, withFileTypes: true })) {
      if (!file.isFile()) continue;
      assert.ok(!readFileSync(path.join(file.parentPath, file.name)).includes(secret), file.name);
    }
    for (const command of [['check'], ['doctor']]) {
      const said = await buyer.cliRaw(...command);
      assert.ok(!`${said.stdout}${said.stderr}`.includes(secret), command[0]);
      if (command[0] === 'check') assert.match(said.stdout, /Treasury main|treasury main/, said.stdout);
    }
  });
});

/** A buyer of its own, for a configuration of its own; ended after `act`. */
async function withBuyer(upstream, more, act) {
  const gateway = await startBuyer(upstream, more, { port: ports[1] });
  try {
    return await act(gateway);
  } finally {
    await gateway.stop();
    assert.ok(!gateway.stderr().includes('panicked'), gateway.stderr());
  }
}

describe('the treasury itself', { concurrency: 1 }, () => {
  test('pays no call above its cap', () =>
    withBuyer(`${seller.url}/shop/mcp`, { treasury: { per_call: '0.005 USD' } }, async (gateway) => {
      const { call } = await person(gateway, 'alice');
      const settled = await sandbox.settled();
      const over = await call('get_forecast', { city: 'Oslo' });
      assert.deepEqual(refused(over), ['BUD-001', 'no'], over.text);
      assert.equal(await sandbox.settled(), settled);
    }));

  test('pays no more in a day than it may, at any concurrency', () =>
    withBuyer(`${seller.url}/shop/mcp`, { treasury: { per_call: '0.01 USD', per_day: '0.035 USD' } }, async (gateway) => {
      const { call } = await person(gateway, 'alice');
      const settled = await sandbox.settled();
      const all = await Promise.all(Array.from({ length: 8 }, (_, n) => call('get_forecast', { city: `n${n}` })));
      const ran = all.filter(({ code }) => code === undefined);
      assert.equal(ran.length, 3, all.map(({ text }) => text).join('\n'));
      const over = all.filter(({ code }) => code !== undefined);
      assert.ok(over.every((one) => one.code === 'BUD-001' && one.problem.charged === 'no'), JSON.stringify(over));
      assert.equal((await sandbox.settled()) - settled, 3);
      assert.deepEqual(await unbalanced(gateway), []);
    }));

  test('pays nothing when its wallet says no', async () => {
    const poor = { kind: 'lightning', url: 'http://127.0.0.1:9' };
    const gateway = await startBuyer(`${seller.url}/shop/mcp`, {}, { port: ports[1], env: { E2E_TREASURY: wallet(poor) } });
    try {
      const { call } = await person(gateway, 'alice');
      const answer = await call('get_report', { city: 'Oslo' });
      assert.deepEqual(refused(answer), ['PAY-027', 'no'], answer.text);
      const last = (await calls(gateway)).at(-1);
      assert.equal(last.state, 'released');
    } finally {
      await gateway.stop();
    }
  });
});

describe('a seller that cannot be trusted', { concurrency: 1 }, () => {
  const tools = [{ name: 'get_a', inputSchema: { type: 'object' } }];
  const bill = (amount, payTo = MERCHANT) => ({
    x402Version: 2,
    error: 'pay',
    resource: { url: 'mcp://tool/get_a' },
    accepts: [{
      scheme: 'exact', network: 'eip155:84532', amount: String(amount), asset: TOKEN, payTo,
      maxTimeoutSeconds: 60, extra: { name: 'USDC', version: '2' },
    }],
  });
  const asking = (amount, payTo) => JSON.stringify({ isError: true, content: [], structuredContent: bill(amount, payTo) });
  const isPaid = (message) => message.params._meta?.['x402/payment'] !== undefined;
  let own;
  before(async () => (own = await startOwnServer({ tools })));
  after(() => own?.stop());

  const servers = () => ({ shop: { upstream: own.url, pay: 'main', tools: { get_a: { price: 'upstream', intent: 'read' } } } });
  const trying = (more, act) => withBuyer(own.url, { servers: servers(), ...more }, act);

  test('asks again after it was paid: no second payment, and nobody says that it cost nothing', () =>
    trying({}, async (gateway) => {
      own.respond(() => asking(10_000));
      const { call } = await person(gateway, 'alice');
      const before = own.seen.length;
      const answer = await call('get_a');
      assert.deepEqual(refused(answer), ['UPS-008', 'unknown'], answer.text);
      const sent = own.seen.slice(before).filter(({ message }) => message?.method === 'tools/call');
      assert.deepEqual(sent.map(({ message }) => isPaid(message)), [false, true], 'one question, one payment');
      assert.equal((await calls(gateway)).at(-1).state, 'in_doubt');
      // Nobody knows what became of the payment: the same call is not paid again.
      const again = await call('get_a');
      assert.deepEqual(refused(again), ['UPS-002', 'unknown'], again.text);
      assert.equal(own.seen.filter(({ message }) => message && isPaid(message)).length, 1);
    }));

  test('asks for another price, or for another payee, than was quoted: nothing is paid', async () => {
    // A slow word of the external service lets what was asked grow old, so it is asked again.
    const pdp = createServer(async (request, response) => {
      for await (const _ of request);
      await sleep(2_300);
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end('{"decision":true}');
    });
    await new Promise((resolve) => pdp.listen(0, '127.0.0.1', resolve));
    const policy = { pdp: { url: `http://127.0.0.1:${pdp.address().port}/access/v1/evaluation`, timeout: '5s', allow_private_network: true } };
    try {
      await trying({ policy }, async (gateway) => {
        const { call } = await person(gateway, 'alice');
        const other = `0x${'22'.repeat(20)}`;
        for (const [name, next] of [['dearer', asking(20_000)], ['other payee', asking(10_000, other)]]) {
          let asked = 0;
          own.respond(() => (asked++ === 0 ? asking(10_000) : next));
          const before = own.seen.length;
          const answer = await call('get_a', { name });
          assert.deepEqual(refused(answer), ['UPS-006', 'no'], answer.text);
          assert.equal(answer.problem.facts.quoted, '0.01 USDC');
          if (name === 'dearer') assert.equal(answer.problem.facts.asked, '0.02 USDC');
          assert.ok(own.seen.slice(before).every(({ message }) => !message || !isPaid(message)), 'nothing was paid');
          assert.equal((await calls(gateway)).at(-1).state, 'released');
        }
        // Less than was quoted is paid, and only that is counted.
        let asked = 0;
        own.respond((message) => {
          if (isPaid(message)) return JSON.stringify({ content: [{ type: 'text', text: 'sold' }] });
          return asked++ === 0 ? asking(10_000) : asking(7_000);
        });
        const answer = await call('get_a', { name: 'cheaper' });
        assert.equal(answer.code, undefined, answer.text);
        assert.equal(receiptOf(answer.result).amount.minor, '7000');
        assert.deepEqual(await unbalanced(gateway), []);
      });
    } finally {
      await new Promise((resolve) => pdp.close(resolve));
    }
  });

  test('sees nothing of a call that policy forbids, or of nobody in particular', () =>
    trying({ servers: { shop: { ...servers().shop, tools: { get_a: { price: 'upstream', intent: 'delete' } } } } }, async (gateway) => {
      own.respond(() => asking(10_000));
      const before = own.seen.length;
      const anonymous_ = await callTool(gateway, 'shop', 'get_a', {});
      assert.equal(anonymous_.status, 401, anonymous_.text);
      const { token } = await person(gateway, 'alice', null);
      const forbidden = await callTool(gateway, 'shop', 'get_a', {}, {
        headers: bearer(token), meta: { 'countersign/intent': { intent: 'read' } },
      });
      assert.equal(forbidden.code, 'POL-004', forbidden.text);
      const sent = own.seen.slice(before).filter(({ message }) => message?.method === 'tools/call');
      assert.deepEqual(sent, []);
    }));

  test('takes the money and does nothing: said, counted and listed', () =>
    trying({}, async (gateway) => {
      own.respond((message) => {
        if (!isPaid(message)) return asking(10_000);
        const _meta = { 'x402/payment-response': { success: true, transaction: '0xabc', network: 'eip155:84532' } };
        return JSON.stringify({ isError: true, content: [{ type: 'text', text: 'no luck' }], _meta });
      });
      const { call } = await person(gateway, 'alice');
      const answer = await call('get_a');
      assert.equal(answer.result._meta['countersign/charged'], 'yes', answer.text);
      const { items } = (await admin(gateway, '/v1/ledger/refunds')).body;
      assert.equal(items.length, 1);
      await gateway.cli('ledger', 'refunded', items[0].call, '--reference', 'came back');
      assert.deepEqual((await accounts(gateway)).filter(({ posted }) => posted !== 0n), []);
    }));
});

describe('a death of the buyer', { concurrency: 1 }, () => {
  const dead = { l402: {}, x402: {} };
  for (const rail of ['l402', 'x402']) {
    const before_ = { permitted: [], settling: ['released'] };
    const later = { started: ['in_doubt'], ran: ['in_doubt'], captured: ['captured'] };
    const between = rail === 'l402' ? { intended: ['settling'], bought: ['settling'] } : { intended: ['in_doubt'] };
    dead[rail] = { ...before_, ...between, ...later };
  }
  const idempotent = { shop: { pay: 'main', tools: Object.fromEntries(Object.values(RAILS).map((tool) => [tool, { price: 'upstream', intent: 'read', idempotent: true }])) } };

  async function lives(more, act) {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-e2e-'));
    const all = [];
    const live = async (failpoint, other = {}) => {
      const point = failpoint ? { COUNTERSIGN_FAILPOINT: failpoint } : {};
      const own = { port: ports[1], dir, env: { ...env(), ...point, ...other.env } };
      const gateway = await startBuyer(`${seller.url}/shop/mcp`, { ...more, ...other.config }, own);
      all.push(gateway);
      return gateway;
    };
    try {
      return await act(live);
    } finally {
      for (const gateway of all) await gateway.stop();
      rmSync(dir, { recursive: true, force: true });
      assert.ok(all.every((gateway) => !gateway.stderr().includes('panicked')));
    }
  }
  const paidFor = async (rail) => (rail === 'l402' ? -(await walletMsat()) / 3000 : sandbox.settled());
  const standing = async (gateway, quiet) =>
    until('recovery is done', async () => {
      const found = (await calls(gateway)).filter(({ state }) => state !== 'refused');
      return found.every(({ state }) => quiet.includes(state)) && found;
    }, { timeout_ms: 40_000 });
  const ENDED = ['captured', 'released', 'in_doubt', 'refund_due', 'refunded'];
  const sound = async (gateway) => {
    await published(gateway);
    const { code, findings } = await verifyLog(gateway);
    assert.deepEqual([code, findings], [0, []]);
    assert.deepEqual(await unbalanced(gateway), []);
  };

  for (const [rail, points] of Object.entries(dead)) {
    for (const [point, left] of Object.entries(points)) {
      test(`${rail} at ${point}: one payment at most, and its call carries it on`, () =>
        lives({}, async (live) => {
          const first = await live(point);
          const { call } = await person(first, 'alice');
          const [tool, paid, ran] = [RAILS[rail], await paidFor(rail), await sandbox.ran(RAILS[rail])];
          const args = { city: `${rail} ${point}` };
          await assert.rejects(call(tool, args));
          const gateway = await live();
          const found = await standing(gateway, [...ENDED, 'settling']);
          assert.deepEqual(found.map(({ state }) => state), left);
          assert.ok((await paidFor(rail)) - paid <= 1, 'paid twice');
          await sound(gateway);
          const again = await call(tool, args);
          const [paidNow, ranNow] = [(await paidFor(rail)) - paid, (await sandbox.ran(tool)) - ran];
          if (left[0] === 'in_doubt') {
            assert.equal(again.code, 'UPS-002', again.text);
            assert.equal(again.problem.charged, rail === 'l402' ? 'yes' : 'unknown', again.text);
            assert.ok(paidNow <= 1 && ranNow <= 1, `${paidNow} payments, ${ranNow} runs`);
            await gateway.cli('ledger', 'resolve', found[0].call, paidNow === 1 ? 'capture' : 'refund');
          } else {
            assert.equal(again.code, undefined, again.text);
            const isNew = left[0] === 'captured';
            assert.deepEqual([paidNow, ranNow], isNew ? [2, 2] : [1, 1]);
            if (left[0] === 'settling') assert.equal(receiptOf(again.result).call, found[0].call, 'the same call');
          }
          const asset = rail === 'l402' ? 'sat' : 'USDC';
          // `accounts` counts in units of a twelfth decimal.
          const unit = rail === 'l402' ? 3n * 10n ** 12n : 10n ** 10n;
          assert.equal(await account(gateway, 'paid_out:shop', asset), BigInt((await paidFor(rail)) - paid) * unit, 'booked is what was paid');
          await sound(gateway);
        }));
    }

    for (const point of ['started', 'ran']) {
      test(`${rail} at ${point}, where the operator vouches for the seller: shown again, paid once`, () =>
        lives({ servers: { shop: { ...idempotent.shop, upstream: `${seller.url}/shop/mcp` } } }, async (live) => {
          const first = await live(point);
          const { call } = await person(first, 'alice');
          const [tool, paid, ran] = [RAILS[rail], await paidFor(rail), await sandbox.ran(RAILS[rail])];
          const args = { city: `${rail} vouched ${point}` };
          await assert.rejects(call(tool, args));
          const gateway = await live();
          const [left] = await standing(gateway, [...ENDED, 'starting']);
          assert.equal(left.state, 'starting');
          const again = await call(tool, args);
          assert.equal(again.code, undefined, again.text);
          assert.equal(receiptOf(again.result).call, left.call);
          assert.deepEqual([(await paidFor(rail)) - paid, (await sandbox.ran(tool)) - ran], [1, 1]);
          await sound(gateway);
        }));
    }
  }

  /** A call that died once its invoice was paid, beside a wallet elsewhere that knows nothing of it; the gateway that `act` gives carries it on. */
  const carriedOn = (city, act) =>
    lives({}, async (live) => {
      const elsewhere = await startParts();
      try {
        const { call } = await person(await live('bought'), 'alice');
        const [tool, msat, ran] = [RAILS.l402, await walletMsat(), await sandbox.ran(RAILS.l402)];
        await assert.rejects(call(tool, { city }));
        const gateway = await act(live, wallet({ kind: 'lightning', url: elsewhere.lightning }), () => call(tool, { city }));
        const [left] = await standing(gateway, [...ENDED, 'settling']);
        assert.equal(left.state, 'settling');
        const again = await call(tool, { city });
        assert.equal(again.code, undefined, again.text);
        assert.equal(receiptOf(again.result).call, left.call, 'the same call');
        assert.deepEqual([msat - (await walletMsat()), (await sandbox.ran(tool)) - ran], [3000, 1]);
        assert.equal(await account(gateway, 'paid_out:shop', 'sat'), 3n * 10n ** 12n, 'booked is what was paid');
        await sound(gateway);
      } finally {
        await elsewhere.stop();
      }
    });

  test('l402 at bought, and another treasury pays the server since: the one that paid carries it on', () =>
    carriedOn('another treasury', (live, elsewhere) => {
      const limits = { per_call: '0.05 USD', per_day: '5 USD' };
      return live(undefined, {
        env: { E2E_SECOND: elsewhere },
        config: {
          treasuries: { main: { wallet: 'env:E2E_TREASURY', ...limits }, second: { wallet: 'env:E2E_SECOND', ...limits } },
          servers: { shop: { upstream: `${seller.url}/shop/mcp`, pay: 'second', tools: bought } },
        },
      });
    }));

  test('l402 at bought, and another wallet under the same name since: it is not asked; the one that paid is, once it is back', () =>
    carriedOn('another wallet', async (live, elsewhere, repeat) => {
      const other = await live(undefined, { env: { E2E_TREASURY: elsewhere } });
      const told = await repeat();
      assert.deepEqual([told.code, told.problem.charged], ['PAY-010', 'unknown'], told.text);
      const [left] = await standing(other, [...ENDED, 'settling']);
      assert.equal(left.state, 'settling', 'who never saw the payment does not say that there was none');
      await other.stop();
      return live();
    }));

  for (const [point, left] of [['intended', 'released'], ['bought', 'refund_due']]) {
    test(`l402 at ${point}, and its caller never comes back: our own wallet says what became of it`, () =>
      lives({}, async (live) => {
        const first = await live(point);
        const { call } = await person(first, 'alice');
        const msat = await walletMsat();
        await assert.rejects(call('get_report', { city: point }));
        const gateway = await live();
        const [one] = await standing(gateway, ENDED);
        assert.equal(one.state, left);
        assert.equal(msat - (await walletMsat()), left === 'released' ? 0 : 3000);
        await sound(gateway);
      }));
  }
});
