// Loops that ignore 402, replays of old credentials, payments that fail: on every rail they are
// borne so often, of a principal and of an address, and cost nothing beyond. Who pays is never in
// their way.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { startIssuer } from './lib/issuer.mjs';
import { attenuate } from './lib/macaroon.mjs';
import { fail, powMeta, workOffer } from './lib/pow.mjs';
import { freePort } from './lib/process.mjs';
import {
  MERCHANT, admin, answerOf, buy, callTool, calls, l402, lightningOffer, published, receiptOf,
  startBefore, startParts, toolCall, x402Challenge,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';
import { payer } from './lib/x402http.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_forecast: { price: '3 sat', ...anonymous },
      get_report: { price: ['0.01 USDC', '3 sat'], ...anonymous },
      get_slow: { price: ['0.01 USDC', 'work'], ...anonymous },
      delete_report: { price: '3 sat', uses: 3, intent: 'read', ...anonymous },
      status: { price: 'free', ...anonymous },
    },
  },
  weather: { tools: { get_forecast: { price: '3 sat', consent: 'none' } } },
};
// Few, and slow to come back: one in six seconds of a principal's, one in 1.5 of an address's.
const FEW = 10;
const SOME = 40;
const limits = {
  open_quotes_per_principal: 4096,
  failed_payments_per_principal_per_minute: FEW,
  failed_payments_per_address_per_minute: SOME,
  invoices_per_principal_per_minute: 1000,
  invoices_per_address_per_minute: 1000,
};

let parts;
let issuer;
let gateway;
let resource;

before(async () => {
  parts = await startParts();
  const port = await freePort();
  resource = `http://127.0.0.1:${port}/weather/mcp`;
  issuer = await startIssuer({ resources: [resource] });
  gateway = await startWith({}, { port });
});
after(async () => {
  await gateway?.stop();
  await issuer?.stop();
  await parts?.stop();
});

const startWith = (changed, options) => startBefore(parts, {
  servers,
  issuers: [issuer.url],
  rails: {
    x402: { pay_to: MERCHANT, facilitator: { sandbox: parts.facilitator } },
    l402: { source: { sandbox: parts.lightning }, hold: false },
    pow: { capacity_per_s: 1000, daily_quota: 1000, min_difficulty: 2000, max_difficulty: 8000 },
  },
  limits: { ...limits, ...changed },
}, options);

let addresses = 1;
/** An address of loopback from which nobody called yet. */
const anew = () => `127.0.9.${++addresses}`;

/** callTool from another address of loopback. */
function callFrom(localAddress, at, tool, args, options, on = gateway) {
  const { url, init } = toolCall(on, at, tool, args, options);
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method: 'POST', headers: init.headers, localAddress, agent: false }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (part) => (text += part));
      answer.on('end', () => {
        const { statusCode: status } = answer;
        answerOf(new Response(text, { status, headers: answer.headers })).then(resolve, reject);
      });
    });
    request.on('error', reject).end(init.body);
  });
}

/** How often `ask` is answered by anything but the limit, before it is; and that answer. */
async function borne(ask) {
  for (let n = 0; n < 200; n++) {
    const answer = await ask(n);
    if (answer.code === 'PAY-030') return [n, answer];
  }
  throw new Error('200 failed payments were borne');
}

function isLimited(answer, cause) {
  assert.deepEqual([answer.status, answer.code], [429, 'PAY-030'], answer.text);
  const { charged, retry, next, facts } = answer.problem;
  assert.deepEqual([charged, retry, next.actor], ['no', 'later', 'client']);
  assert.match(next.action, /pay an offer that you have, or wait/);
  assert.equal(answer.headers.get('retry-after'), String(answer.problem.retry_after));
  assert.ok(answer.problem.retry_after >= 1, answer.text);
  if (cause) assert.equal(facts?.cause, cause);
  assert.equal(lightningOffer(answer), undefined);
  assert.equal(answer.headers.get('payment-required'), null);
}

const earned = () => parts.earnedMsat();

describe('a loop that ignores 402', () => {
  test('of one principal ends, leaves no records, and another principal is served', async () => {
    const [alice, bob] = [
      { headers: bearer(await issuer.userToken('alice', resource)) },
      { headers: bearer(await issuer.userToken('bob', resource)) },
    ];
    const from = anew();
    const ask = (n, who = alice) => callFrom(from, 'weather', 'get_forecast', { n }, who);
    const [count, answer] = await borne(ask);
    assert.equal(count, FEW);
    isLimited(answer);
    const { records } = await published(gateway);
    for (let n = 0; n < 50; n++) isLimited(await ask(n));
    assert.equal((await published(gateway)).records, records, 'each was written down');
    const { body } = await admin(gateway, `/v1/calls/${answer.problem.call_id}`);
    assert.equal(body.code, 'ADM-002', 'it is only counted');
    assert.equal((await ask('bob', bob)).code, 'PAY-001');
    // From elsewhere it is the same principal.
    isLimited(await callFrom(anew(), 'weather', 'get_forecast', {}, alice));
    await sleep((answer.problem.retry_after + 0.1) * 1000);
    assert.equal((await ask('later')).code, 'PAY-001', 'it may be asked again when it said');
  });

  test('of one address without a token ends, and those with one are served there', async () => {
    const from = anew();
    const [count, answer] = await borne((n) => callFrom(from, 'open', 'get_forecast', { n }));
    // One comes back in a second and a half.
    assert.ok(count >= SOME / 2 && count <= SOME / 2 + 5, `${count} were borne`);
    isLimited(answer);
    assert.equal((await callFrom(anew(), 'open', 'get_forecast', {})).code, 'PAY-001');
    const carol = { headers: bearer(await issuer.userToken('carol', resource)) };
    assert.equal((await callFrom(from, 'weather', 'get_forecast', {}, carol)).code, 'PAY-001');
    const free = await callFrom(from, 'open', 'status', {});
    assert.ok(free.result && !free.code, 'what is free stays free');
  });

  test('is held to the number, however many come at once', async () => {
    const dave = { headers: bearer(await issuer.userToken('dave', resource)) };
    const from = anew();
    const ask = (_, n) => callFrom(from, 'weather', 'get_forecast', { n }, dave);
    const answers = await Promise.all(Array.from({ length: 60 }, ask));
    const codes = answers.map(({ code }) => code);
    assert.equal(codes.filter((code) => code === 'PAY-001').length, FEW);
    assert.equal(codes.filter((code) => code === 'PAY-030').length, 60 - FEW);
  });

  test('in the same call costs the node one invoice', async () => {
    const from = anew();
    const seen = new Set();
    await borne(async () => {
      const answer = await callFrom(from, 'open', 'get_forecast', { city: 'same' });
      if (lightningOffer(answer)) seen.add(lightningOffer(answer).invoice);
      return answer;
    });
    assert.equal(seen.size, 1);
  });
});

describe('who pays', () => {
  test('is not counted, over any rail', async () => {
    const from = anew();
    const before = await earned();
    for (let n = 0; n < SOME; n++) {
      const offer = lightningOffer(await callFrom(from, 'open', 'get_forecast', { n }));
      assert.ok(offer, `call ${n} had no offer`);
      const headers = l402({ ...offer, preimage: await parts.pay(offer.invoice) });
      const answer = await callFrom(from, 'open', 'get_forecast', { n }, { headers });
      assert.ok(receiptOf(answer.result), answer.text);
    }
    assert.equal((await earned()) - before, SOME * 3000);
  });

  test('with a credential that is good is served after any number of failures', async () => {
    const from = anew();
    const offer = lightningOffer(await callFrom(from, 'open', 'delete_report', {}));
    const headers = l402({ ...offer, preimage: await parts.pay(offer.invoice) });
    await borne((n) => callFrom(from, 'open', 'get_forecast', { n }));
    const answer = await callFrom(from, 'open', 'delete_report', { n: 1 }, { headers });
    assert.ok(receiptOf(answer.result), answer.text);
    // Each call that is paid for takes one failure back.
    assert.equal((await callFrom(from, 'open', 'get_forecast', { n: 'again' })).code, 'PAY-001');
  });
});

describe('payments that fail', () => {
  test('old L402 credentials: spent, foreign, forged', async () => {
    const spent = await buy(parts, gateway, 'open', 'get_forecast', { city: 'spent' });
    const first = await callTool(gateway, 'open', 'get_forecast', { city: 'spent' }, { headers: l402(spent) });
    assert.ok(receiptOf(first.result), first.text);
    const other = { headers: l402(spent) };
    const from = anew();
    const [count, last] = await borne((n) => callFrom(from, 'open', 'get_forecast', { n }, other));
    assert.ok(count >= SOME / 2 && count <= SOME / 2 + 5, `${count} were borne`);
    isLimited(last);
    // The call that it was for still has its outcome.
    const again = await callFrom(from, 'open', 'get_forecast', { city: 'spent' }, other);
    assert.deepEqual(receiptOf(again.result)?.call, receiptOf(first.result).call, again.text);

    const forged = { headers: l402({ token: attenuate(spent.token, 'subject=mallory'), preimage: '00'.repeat(32) }) };
    const elsewhere = anew();
    const [, answer] = await borne((n) => callFrom(elsewhere, 'open', 'get_forecast', { n }, forged));
    isLimited(answer, 'PAY-014');
    const malformed = { headers: { authorization: 'L402 nonsense' } };
    const third = anew();
    const [, unread] = await borne((n) => callFrom(third, 'open', 'get_forecast', { n }, malformed));
    isLimited(unread, 'PAY-002');
  });

  test('x402 payments: beyond the number no facilitator is asked', async () => {
    const asked = [];
    const facilitator = http.createServer(async (request, response) => {
      for await (const _part of request);
      asked.push(request.url);
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end('{"isValid":false,"invalidReason":"insufficient_funds"}');
    });
    await new Promise((resolve) => facilitator.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${facilitator.address().port}`;
    const own = await startBefore(parts, {
      servers: { open: { tools: { get_report: { price: '0.01 USDC', ...anonymous } } } },
      rails: { x402: { pay_to: MERCHANT, facilitator: { url } } },
      limits,
    });
    try {
      const from = anew();
      const args = { city: 'Oslo' };
      const asking = await callFrom(from, 'open', 'get_report', args, {}, own);
      const pay = async () => {
        const key = `0x${randomBytes(32).toString('hex')}`;
        const payment = await payer(key).createPaymentPayload(x402Challenge(asking));
        const encoded = Buffer.from(JSON.stringify(payment)).toString('base64');
        return callFrom(from, 'open', 'get_report', args, { headers: { 'payment-signature': encoded } }, own);
      };
      const [count, answer] = await borne(pay);
      isLimited(answer);
      assert.ok(count >= SOME / 2 - 1 && count <= SOME / 2 + 5, `${count} were borne`);
      assert.equal(asked.length, count);
      for (let n = 0; n < 10; n++) isLimited(await pay());
      assert.ok(asked.length <= count + 1, 'it was asked again');
    } finally {
      facilitator.closeAllConnections();
      facilitator.close();
      await own.stop();
    }
  });

  test('proofs of work that are none', async () => {
    const from = anew();
    const args = { ms: 1 };
    const offer = workOffer(await callFrom(from, 'open', 'get_slow', args));
    const wrong = { meta: powMeta(offer.nonce, fail(offer)) };
    const [count, answer] = await borne(() => callFrom(from, 'open', 'get_slow', args, wrong));
    assert.ok(count >= SOME / 2 - 1 && count <= SOME / 2 + 5, `${count} were borne`);
    isLimited(answer, 'PAY-022');
  });
});

describe('invoices that nobody pays', () => {
  test('of one principal and of one address are so many; other rails are offered without', async () => {
    const port = await freePort();
    const of = `http://127.0.0.1:${port}/weather/mcp`;
    const other = await startIssuer({ resources: [of] });
    let own;
    try {
      own = await startBefore(parts, {
        servers,
        issuers: [other.url],
        rails: {
          x402: { pay_to: MERCHANT, facilitator: { sandbox: parts.facilitator } },
          l402: { source: { sandbox: parts.lightning }, hold: false },
          pow: {},
        },
        limits: {
          open_quotes_per_principal: 4096,
          invoices_per_principal_per_minute: 5, invoices_per_address_per_minute: 30,
        },
      }, { port });
      const alice = { headers: bearer(await other.userToken('alice', of)) };
      const from = anew();
      const ask = (n) => callFrom(from, 'weather', 'get_forecast', { n }, alice, own);
      for (let n = 0; n < 5; n++) assert.equal((await ask(n)).code, 'PAY-001');
      const answer = await ask(5);
      assert.deepEqual([answer.status, answer.code], [429, 'PAY-031'], answer.text);
      assert.equal(answer.headers.get('retry-after'), '12');
      assert.deepEqual([answer.problem.charged, answer.problem.proofs.payment], ['no', 'missing']);
      assert.equal((await ask(0)).code, 'PAY-001', 'an invoice that is open is shown again');
      assert.equal((await calls(own)).some(({ code }) => code === 'PAY-031'), false, 'it is only counted');

      const elsewhere = anew();
      const both = (n) => callFrom(elsewhere, 'open', 'get_report', { n }, {}, own);
      for (let n = 0; n < 15; n++) assert.ok(lightningOffer(await both(n)), `call ${n}`);
      const rest = await both(15);
      assert.equal(rest.code, 'PAY-001', rest.text);
      assert.equal(lightningOffer(rest), undefined, 'no invoice');
      const offers = x402Challenge(rest).accepts;
      assert.deepEqual(x402Challenge(await both(15)).accepts, offers, 'the same quote again');
      const only = await callFrom(elsewhere, 'open', 'get_forecast', {}, {}, own);
      assert.equal(only.code, 'PAY-031', only.text);
      // Whoever pays over the other rail has its invoice back.
      const payment = await payer(`0x${randomBytes(32).toString('hex')}`).createPaymentPayload(x402Challenge(rest));
      const headers = { 'payment-signature': Buffer.from(JSON.stringify(payment)).toString('base64') };
      const paid = await callFrom(elsewhere, 'open', 'get_report', { n: 15 }, { headers }, own);
      assert.ok(receiptOf(paid.result), paid.text);
      assert.ok(lightningOffer(await callFrom(elsewhere, 'open', 'get_forecast', { n: 'last' }, {}, own)));
    } finally {
      await own?.stop();
      await other.stop();
    }
  });
});
