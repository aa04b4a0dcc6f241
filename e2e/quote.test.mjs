// What a call would cost, asked without making it: the call's own answers, and nothing that runs, is
// taken, or is used up.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { MACHINE, WEB, startIssuer } from './lib/issuer.mjs';
import { fetchL402, walletAt } from './lib/l402http.mjs';
import { powMeta, solve } from './lib/pow.mjs';
import { freePort } from './lib/process.mjs';
import {
  MCP_ACCEPT, MERCHANT, accounts, admin, answerOf, buy, callTool, calls, l402, lightningOffer, published, receiptOf,
  startBefore, startParts, toolCall, unbalanced, verifyLog, x402Challenge,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';
import { payer } from './lib/x402http.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_broken: { price: 'free', ...anonymous },
      get_forecast: { price: ['3 sat', '0.01 USDC', 'work'], ...anonymous },
      get_report: { price: '3 sat', uses: 2, ...anonymous },
    },
  },
  // For whoever has a token; some of it for whoever has a grant, and nothing for a spender.
  own: {
    tools: {
      get_forecast: { price: '3 sat', consent: 'none' },
      get_report: { price: '3 sat' },
      delete_report: { price: '3 sat', intent: 'delete', consent: 'none' },
      get_slow: { price: '0.01 USDC', consent: 'none' },
      get_broken: { price: 'free', consent: 'none' },
      status: {
        consent: 'none',
        price: [
          { tenant: 'elsewhere', price: 'free' },
          { agent: WEB.id, price: '5 sat' },
          { tenant: 'default', agent: MACHINE.id, price: '0.02 USDC' },
        ],
      },
    },
  },
};
const STRANGER = { id: 'a-stranger', secret: 'a-stranger-s-secret' };
const budgets = [{ name: 'slow', scope: { tool: 'own/get_slow' }, limit: '0.001 USD', window: 'lifetime' }];

let parts, issuer, gateway, token;
before(async () => {
  parts = await startParts();
  const port = await freePort();
  const resource = `http://127.0.0.1:${port}/own/mcp`;
  issuer = await startIssuer({ resources: [resource], machines: [STRANGER] });
  gateway = await startBefore(parts, {
    servers,
    budgets,
    issuers: [issuer.url],
    limits: { open_quotes_per_principal: 4096, body: '64 KiB' },
    rails: {
      x402: { pay_to: MERCHANT, facilitator: { sandbox: parts.facilitator } },
      l402: { source: { sandbox: parts.lightning }, hold: true },
      pow: { capacity_per_s: 1000, daily_quota: 1000, min_difficulty: 2000, max_difficulty: 8000 },
    },
  }, { port });
  token = await issuer.userToken('alice', resource);
});
after(async () => {
  await gateway?.stop();
  await issuer?.stop();
  await parts?.stop();
});

test('a client that declares the x402 extension is asked in its form, and pays in it', async () => {
  const extensions = { 'org.x402/payment': {} };
  const meta = { 'io.modelcontextprotocol/clientCapabilities': { extensions } };
  const args = { city: 'extension' };
  const ask = (more) =>
    callTool(gateway, 'open', 'get_forecast', args, { headers: MCP_ACCEPT, meta: { ...meta, ...more } });
  const { result } = await ask();
  assert.equal(result.resultType, 'payment_required');
  assert.deepEqual(Object.keys(result).sort(), ['_meta', 'paymentRequired', 'resultType']);
  const plain = await callTool(gateway, 'open', 'get_forecast', args, { headers: MCP_ACCEPT });
  assert.equal(plain.result.resultType, 'complete', 'and nobody else');
  const key = `0x${randomBytes(32).toString('hex')}`;
  const payment = await payer(key).createPaymentPayload(result.paymentRequired);
  const paid = await ask({ 'x402/payment': payment });
  assert.equal(receiptOf(paid.result).rail, 'x402', paid.text);
});

test('callers are asked their own prices; one without a price is refused, not served for nothing', async () => {
  const at = `${gateway.url}/own/mcp`;
  const machine = await issuer.clientCredentials(at);
  const stranger = await issuer.clientCredentials(at, 'mcp:call', STRANGER);
  const ask = (who) => callTool(gateway, 'own', 'status', {}, { headers: bearer(who) });
  const person = await ask(token);
  assert.match(lightningOffer(person).invoice, /^ln[a-z]+50n1/, '5 sat');
  assert.equal(x402Challenge(person), undefined, person.text);
  const own = await ask(machine);
  assert.deepEqual(x402Challenge(own).accepts.map(({ amount }) => amount), ['20000'], own.text);
  assert.equal(lightningOffer(own), undefined, own.text);
  const refused = await ask(stranger);
  assert.deepEqual([refused.code, refused.problem.charged], ['PAY-020', 'no'], refused.text);
});

/** Asks what a call would cost. `init` replaces parts of the request. */
async function quote(at, tool, args = {}, { headers = {}, meta, ...init } = {}) {
  const body = JSON.stringify({ tool, arguments: args, ...(meta ? { _meta: meta } : {}) });
  const all = { 'content-type': 'application/json', ...headers };
  return answerOf(await fetch(`${gateway.url}/${at}/mcp/quote`, { method: 'POST', body, headers: all, ...init }));
}

/** What `act` did to the tool and to all money: nothing. Gives what it gave. */
async function idle(tool, act) {
  const state = async () => [
    await parts.ran(tool), await parts.earnedMsat(), await parts.settled(),
    (await accounts(gateway)).map(({ account, posted, pending_out }) => `${account} ${posted} ${pending_out}`),
  ];
  const before_ = await state();
  const value = await act();
  assert.deepEqual(await state(), before_);
  return value;
}

const isFree = ({ status, message, text }) =>
  assert.deepEqual([status, message], [200, { due: false, ran: false, charged: 'no' }], text);

describe('a tool that costs', () => {
  test('is answered as the call is, on every rail, with one quote for both', async () => {
    const city = { city: 'Oslo' };
    const asked = await idle('get_forecast', () => quote('open', 'get_forecast', city));
    assert.deepEqual([asked.status, asked.code, asked.problem.charged], [402, 'PAY-001', 'no'], asked.text);
    assert.deepEqual(
      asked.problem.proofs,
      { identity: 'not_required', consent: 'not_required', payment: 'missing', authorization: 'ok' },
    );
    const again = await quote('open', 'get_forecast', city);
    assert.deepEqual(lightningOffer(again), lightningOffer(asked));
    assert.deepEqual(x402Challenge(again), x402Challenge(asked));
    assert.ok(asked.message.pow.nonce && asked.headers.get('pow-challenge'));
    const called = await callTool(gateway, 'open', 'get_forecast', city);
    assert.deepEqual(x402Challenge(called).accepts.map(({ amount }) => amount), ['10000']);
    assert.deepEqual(Object.keys(called.message).sort(), Object.keys(asked.message).sort());
    const { body } = await admin(gateway, `/v1/calls/${asked.problem.call_id}`);
    assert.deepEqual([body.call.state, body.call.code], ['refused', 'PAY-001']);
  });

  test('its invoice is paid at once, runs nothing, and is then used by a stock client', async () => {
    const wallet = walletAt(parts.lightning);
    const args = { city: 'stock' };
    const offer = lightningOffer(await quote('own', 'get_forecast', args, { headers: bearer(token) }));
    const ran = await parts.ran('get_forecast');
    const { preimage } = await wallet.payInvoice(offer);
    assert.equal(await parts.ran('get_forecast'), ran, 'nothing waited for this money');
    const paid = await callTool(gateway, 'own', 'get_forecast', args, {
      headers: { 'x-mcp-auth-composite': `Identity ${token}, Payment ${offer.token}:${preimage}` },
    });
    assert.equal(receiptOf(paid.result)?.rail, 'l402', paid.text);
    assert.equal(await parts.ran('get_forecast'), ran + 1);
    // A client that asks and pays by itself, as it would for any URL.
    const { url, init } = toolCall(gateway, 'open', 'get_forecast', { city: 'alby' });
    assert.ok(receiptOf((await answerOf(await fetchL402(wallet, url, init))).result));
    assert.equal(wallet.paid.length, 2);
  });

  test('a payment for its quote, after the call was made unpaid and has one of its own, takes nothing', async () => {
    const args = { city: 'between' };
    const asked = await quote('open', 'get_forecast', args);
    const payment = await payer(`0x${'22'.repeat(32)}`).createPaymentPayload(x402Challenge(asked));
    await callTool(gateway, 'open', 'get_forecast', args);
    const headers = { 'payment-signature': Buffer.from(JSON.stringify(payment)).toString('base64') };
    const answer = await idle('get_forecast', () => callTool(gateway, 'open', 'get_forecast', args, { headers }));
    assert.deepEqual([answer.status, answer.code, answer.problem.charged], [402, 'PAY-006', 'no'], answer.text);
    assert.equal(x402Challenge(answer).accepts.length, 1, 'and it is told what to pay instead');
  });

  test('by x402 and by work: what the question asked pays for the call', async () => {
    const args = { city: 'rails' };
    const asked = await quote('open', 'get_forecast', args);
    const payment = await payer(`0x${'22'.repeat(32)}`).createPaymentPayload(x402Challenge(asked));
    const headers = { 'payment-signature': Buffer.from(JSON.stringify(payment)).toString('base64') };
    isFree(await idle('get_forecast', () => quote('open', 'get_forecast', args, { headers })));
    assert.equal(receiptOf((await callTool(gateway, 'open', 'get_forecast', args, { headers })).result)?.rail, 'x402');
    const other = { city: 'worked' };
    const { pow } = (await quote('open', 'get_forecast', other)).message;
    const meta = powMeta(pow.nonce, solve(pow));
    isFree(await idle('get_forecast', () => quote('open', 'get_forecast', other, { meta })));
    assert.equal(receiptOf((await callTool(gateway, 'open', 'get_forecast', other, { meta })).result)?.rail, 'pow');
  });

  test('that is held for its call is held after a question too, and the question keeps nothing', async () => {
    const args = { city: 'held' };
    const asked = lightningOffer(await quote('open', 'get_forecast', args));
    const called = lightningOffer(await callTool(gateway, 'open', 'get_forecast', args));
    assert.notEqual(called.invoice, asked.invoice, 'the call has an invoice that can wait');
    const balances = async () => (await fetch(`${parts.lightning}/balances`)).json();
    const from = await balances();
    const ran = await parts.ran('get_forecast');
    const preimage = await parts.pay(called.invoice);
    assert.equal(await parts.ran('get_forecast'), ran + 1, 'it ran while its money was held');
    assert.equal((await balances()).held_msat, from.held_msat);
    const paid = await callTool(gateway, 'open', 'get_forecast', args, { headers: l402({ ...called, preimage }) });
    assert.ok(receiptOf(paid.result), paid.text);
    assert.equal(await parts.ran('get_forecast'), ran + 1);
  });
});

describe('nothing is due', () => {
  test('for a free tool: it does not run, and nothing is recorded', async () => {
    const known = (await calls(gateway)).length;
    isFree(await idle('get_broken', () => quote('open', 'get_broken')));
    isFree(await quote('own', 'get_broken', {}, { headers: bearer(token) }));
    assert.equal((await calls(gateway)).length, known);
  });

  test('where a credential for several calls covers it: no use is counted, until none is left', async () => {
    const bought = await buy(parts, gateway, 'open', 'get_report', { n: 0 });
    const headers = l402(bought);
    for (const n of [1, 2, 3]) isFree(await quote('open', 'get_report', { n }, { headers }));
    for (const n of [1, 2]) {
      const { result, text } = await callTool(gateway, 'open', 'get_report', { n }, { headers });
      assert.ok(receiptOf(result), text);
    }
    const over = await quote('open', 'get_report', { n: 3 }, { headers });
    assert.deepEqual([over.status, over.code], [402, 'PAY-017'], over.text);
    assert.notEqual(lightningOffer(over).invoice, bought.invoice);
  });

  test('for a call that ran under this payment: it gets its stored result', async () => {
    const args = { city: 'again' };
    const offer = lightningOffer(await quote('open', 'get_forecast', args));
    const headers = l402({ ...offer, preimage: await parts.pay(offer.invoice) });
    assert.ok(receiptOf((await callTool(gateway, 'open', 'get_forecast', args, { headers })).result));
    isFree(await idle('get_forecast', () => quote('open', 'get_forecast', args, { headers })));
  });
});

describe('what the call is refused, its question is', () => {
  const token_ = () => bearer(token);
  const cases = [
    ['without a token', 'own', 'get_forecast', {}, () => ({}), 401, 'IDN-001'],
    ['with a token that is none', 'own', 'get_forecast', {}, () => bearer('e30.e30.e30'), 401],
    ['without a grant', 'own', 'get_report', {}, token_, 403, 'CNS-001'],
    ['where a person must confirm', 'own', 'delete_report', {}, token_, 403, 'CNS-008'],
    ['beyond a budget', 'own', 'get_slow', {}, token_, 429, 'BUD-001'],
    ['of an unknown tool', 'own', 'nothing', {}, token_, 404, 'REQ-015'],
    ['with a session that is none', 'own', 'get_broken', {}, () => ({ ...bearer(token), 'mcp-session-id': 'x' }), 404, 'REQ-012'],
    ['with a token in the address', 'own', 'get_broken', {}, token_, undefined, undefined, '?access_token=x'],
  ];
  for (const [name, at, tool, args, headers, status, code, query = ''] of cases) {
    test(name, async () => {
      const { url, init } = toolCall(gateway, at, tool, args, { headers: headers() });
      const called = await answerOf(await fetch(url + query, init));
      const asked = await idle(tool === 'nothing' ? 'get_broken' : tool, async () => {
        const body = JSON.stringify({ tool, arguments: args });
        const all = { 'content-type': 'application/json', ...headers() };
        return answerOf(await fetch(`${gateway.url}/${at}/mcp/quote${query}`, { method: 'POST', body, headers: all }));
      });
      assert.equal(asked.code, called.code, asked.text);
      assert.equal(asked.status, called.status, asked.text);
      if (code) assert.deepEqual([asked.status, asked.code], [status, code]);
      assert.equal(asked.problem.charged, 'no');
      assert.equal(asked.headers.get('content-type'), 'application/problem+json');
      assert.equal(lightningOffer(asked), undefined, 'no money is asked for');
      if (asked.status === 401) {
        assert.match(asked.headers.get('www-authenticate'), /^Bearer .*resource_metadata="[^"]+\/own\/mcp"/);
      }
    });
  }

  test('an approval that answers it is not used by it', async () => {
    const args = { id: 'asked' };
    const headers = bearer(token);
    const pending = await quote('own', 'delete_report', args, { headers });
    const [id] = /appr_[0-9a-f]{32}/.exec(pending.text);
    await gateway.cli('approvals', 'approve', id);
    for (const _ of [1, 2]) {
      const asked = await quote('own', 'delete_report', args, { headers });
      assert.deepEqual([asked.status, asked.code], [402, 'PAY-001'], asked.text);
    }
    assert.equal((await gateway.cli('approvals', 'show', id)).status, 'approved');
    const { code } = await callTool(gateway, 'own', 'delete_report', args, { headers });
    assert.equal(code, 'PAY-001', 'the call too');
  });
});

describe('what is no question', () => {
  const send = (init, path = 'open/mcp/quote') =>
    fetch(`${gateway.url}/${path}`, { method: 'POST', ...init }).then(answerOf);
  const cases = [
    ['no JSON', { body: '{"tool":' }, 400, 'REQ-001'],
    ['a member twice', { body: '{"tool":"get_broken","tool":"get_broken"}' }, 400],
    ['another member', { body: '{"tool":"get_broken","price":1}' }, 400],
    ['no tool', { body: '{"arguments":{}}' }, 400],
    ['arguments that are no object', { body: '{"tool":"get_broken","arguments":[]}' }, 400],
    ['too large', { body: JSON.stringify({ tool: 'get_broken', arguments: { x: 'x'.repeat(65 << 10) } }) }, 413],
    ['a GET', { method: 'GET' }, 405, 'REQ-010'],
    ['another page', { body: '{"tool":"get_broken"}', headers: { origin: 'https://evil.example' } }, 403],
    ['no server', { body: '{"tool":"get_broken"}' }, 404, 'REQ-009', 'mcp/quote'],
    ['an unknown server', { body: '{"tool":"get_broken"}' }, 404, 'REQ-009', 'nobody/mcp/quote'],
  ];
  for (const [name, init, status, code, path] of cases) {
    test(name, async () => {
      const answer = await send(init, path);
      assert.equal(answer.status, status, answer.text);
      assert.ok(answer.code, answer.text);
      if (code) assert.equal(answer.code, code);
    });
  }
});

describe('countersign quote', () => {
  const ask = async (tool, url = `${gateway.url}/open/mcp`, ...args) => {
    const { code, stdout, stderr } = await gateway.cliRaw('quote', url, tool, ...args);
    return { code, said: stdout ? JSON.parse(stdout).asked : stderr };
  };

  test('shows every offer, and neither pays nor works', async () => {
    const { code, said } = await idle('get_forecast', () => ask('get_forecast'));
    const amounts = said.offers.map(({ rail, amount }) => `${rail} ${amount}`).sort();
    assert.deepEqual([code, said.outcome, amounts], [0, 'asked', ['l402 3 sat', 'pow null', 'x402 0.01 USDC']]);
  });

  test('says that nothing is due, and the tool does not run', async () => {
    assert.deepEqual(await idle('get_broken', () => ask('get_broken')), { code: 0, said: { outcome: 'nothing_due' } });
  });

  test('says what the call would be refused', async () => {
    const { code, said } = await ask('get_report', `${gateway.url}/own/mcp`);
    assert.deepEqual([code, said.outcome, said.problem.code], [11, 'refused', 'IDN-001']);
  });

  test('of a server without that endpoint asks only where a price is listed', async () => {
    assert.deepEqual(await idle('get_broken', () => ask('get_broken', parts.server)), { code: 0, said: null });
  });
});

test('all of it left nothing open, and a whole log', async () => {
  await published(gateway);
  const { code, findings } = await verifyLog(gateway);
  assert.deepEqual([code, findings], [0, []]);
  assert.deepEqual(await unbalanced(gateway), []);
});
