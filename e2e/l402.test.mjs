// L402 before the sandbox Lightning node: the stock clients pay unmodified, and a credential buys
// what it was sold for, to whom, as often as it says, and nothing else.

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { startIssuer } from './lib/issuer.mjs';
import { fetchAnyRail, fetchL402, walletAt } from './lib/l402http.mjs';
import { attenuate, caveatsOf, decode, flipBit, recaveat, remint } from './lib/macaroon.mjs';
import { freePort } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import {
  MCP_ACCEPT, admin, answerOf, buy, callRaw, callTool, calls, l402, lightningOffer,
  MODERN_META, modernHeaders, receiptOf, sha256, startBefore, startParts, toolCall, unbalanced,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  // For anybody.
  open: {
    tools: {
      status: { price: 'free', ...anonymous },
      get_forecast: { price: '3 sat', ...anonymous },
      get_report: { price: '3 sat', ...anonymous },
      get_slow: { price: '3 sat', uses: 3, ...anonymous },
      get_broken: { price: '3 sat', ...anonymous },
    },
  },
  // For whoever has a token.
  weather: {
    tools: {
      get_forecast: { price: ['0.01 USDC', '3 sat'], consent: 'none' },
      get_report: { price: '3 sat', consent: 'none' },
    },
  },
  // For whoever has a token and a grant.
  granted: { tools: { get_forecast: { price: '3 sat' } } },
  // Three calls for 3 sat: 0.0018 USD, 0.0006 USD a call.
  bundle: { tools: { get_forecast: { price: '3 sat', uses: 3 } } },
  tied: { tools: { get_forecast: { price: '3 sat', uses: 3 } } },
  narrow: { tools: { get_forecast: { price: '3 sat', uses: 3, consent: 'none' } } },
};
const budgets = [
  { name: 'bundle', scope: { server: 'bundle' }, limit: '0.0035 USD', window: 'lifetime' },
  { name: 'narrow', scope: { server: 'narrow' }, limit: '0.0015 USD', window: 'lifetime' },
];

let parts;
let issuer;
let gateway;
let token;

before(async () => {
  parts = await startParts();
  const port = await freePort();
  const resource = (at) => `http://127.0.0.1:${port}/${at}/mcp`;
  issuer = await startIssuer({ resources: Object.keys(servers).map(resource) });
  gateway = await startBefore(parts, { servers, budgets, issuers: [issuer.url] }, { port });
  token = await issuer.userToken('alice', resource('weather'));
});
after(async () => {
  await gateway?.stop();
  await issuer?.stop();
  await parts?.stop();
});

/** What `act` did: runs of a tool, and what came in over Lightning, in sat. */
async function effect(tool, act) {
  const [ran, earned] = [await parts.ran(tool), await parts.earnedMsat()];
  const value = await act();
  return {
    value,
    ran: (await parts.ran(tool)) - ran,
    earned: ((await parts.earnedMsat()) - earned) / 1000,
  };
}

const forecast = (answer) => answer.result?.structuredContent?.sky;
const isRun = (answer) => assert.ok(forecast(answer), `${answer.status} ${answer.text}`);

function isRefused(answer, status, code) {
  assert.deepEqual([answer.status, answer.code], [status, code], answer.text);
  assert.ok(answer.problem.next.action.length > 5, answer.text);
  assert.notEqual(answer.problem.charged, 'yes', answer.text);
}

/** A 402 that says `code` and asks for a fresh payment. */
function isAsked(answer, code, used) {
  isRefused(answer, 402, code);
  const offer = lightningOffer(answer);
  assert.ok(offer, `no challenge: ${answer.text}`);
  if (used) assert.notEqual(offer.invoice, used.invoice, 'the invoice is the one that was paid');
}

/** What `act` fetched from the gateway: the `Authorization` of each request. */
async function overheard(act) {
  const { fetch: native } = globalThis;
  const authorizations = [];
  globalThis.fetch = (input, init) => {
    const request = new Request(input, init);
    if (request.url.startsWith(gateway.url)) {
      authorizations.push(request.headers.get('authorization'));
    }
    return native(input, init);
  };
  try {
    return { value: await act(), authorizations };
  } finally {
    globalThis.fetch = native;
  }
}

describe('stock clients', () => {
  for (const [name, client] of Object.entries({ fetchL402, fetchAnyRail })) {
    test(`@getalby/lightning-tools ${name} on an anonymous tool`, async () => {
      const wallet = walletAt(parts.lightning);
      const { url, init } = toolCall(gateway, 'open', 'get_forecast', { city: `alby ${name}` });
      const { value, ran, earned } = await effect('get_forecast', async () =>
        answerOf(await client(wallet, url, init)));
      isRun(value);
      assert.equal(receiptOf(value.result).rail, 'l402');
      assert.deepEqual([wallet.paid.length, ran, earned], [1, 1, 3]);
    });

    test(`@getalby/lightning-tools ${name}, identity from the macaroon`, async () => {
      const wallet = walletAt(parts.lightning);
      const call = toolCall(gateway, 'weather', 'get_forecast', { city: `from ${name}` }, {
        headers: bearer(token),
      });
      const { value, ran, earned } = await effect('get_forecast', () =>
        overheard(async () => answerOf(await client(wallet, call.url, call.init))));
      isRun(value.value);
      assert.deepEqual([wallet.paid.length, ran, earned], [1, 1, 3]);
      assert.equal(value.authorizations[0], `Bearer ${token}`);
      assert.match(value.authorizations.at(-1), /^L402 /, 'the paid try brings no token');
      const { body } = await admin(gateway, `/v1/calls/${receiptOf(value.value.result).call}`);
      assert.equal(body.call.agent, 'web-agent');
      assert.ok(body.call.delegator, 'the macaroon says for whom');
    });
  }

  /** A request for e2e/py/l402_http.py. */
  const pythonCall = (at, tool, args, headers = {}) => {
    const { url, init } = toolCall(gateway, at, tool, args, { headers });
    return { method: 'POST', url, headers: init.headers, json: JSON.parse(init.body) };
  };
  const viaPython = async (requests) => {
    const env = { WALLET_URL: parts.lightning };
    const { responses, spent_sats } = await pythonJson('l402_http.py', { job: { requests }, env });
    const read = ({ status, body, error }) => {
      const text = body ?? error;
      return { status, text, result: body ? JSON.parse(body).result : undefined };
    };
    return { answers: responses.map(read), spent_sats };
  };

  test('PyPI l402-requests, anonymous, shows its credential again and pays again', async () => {
    const [oslo, rome] = ['Oslo', 'Rome'].map((city) =>
      pythonCall('open', 'get_forecast', { city: `${city} by requests` }));
    const { value, ran, earned } = await effect('get_forecast', () =>
      viaPython([oslo, oslo, rome]));
    value.answers.forEach(isRun);
    // The second is the first again, and gets its outcome; the third is another call.
    assert.ok(value.answers[1].result._meta['countersign/replay-of']);
    assert.deepEqual([value.spent_sats, ran, earned], [6, 2, 6]);
  });

  test('PyPI l402-requests, from a tool to another on one host', async () => {
    const requests = ['get_forecast', 'get_report', 'get_forecast'].map((tool) =>
      pythonCall('open', tool, { city: 'a second tool' }));
    const { value, earned } = await effect('get_report', () => viaPython(requests));
    for (const answer of value.answers) assert.equal(answer.status, 200, answer.text);
    // It caches one credential per host and path: the last call, paid before, has lost its own.
    assert.deepEqual([value.spent_sats, earned], [9, 9]);
  });

  for (const spelling of ['Authorization', 'authorization']) {
    test(`PyPI l402-requests with a token in \`${spelling}\``, async () => {
      const request = pythonCall('weather', 'get_forecast', { city: spelling }, {
        [spelling]: `Bearer ${token}`,
      });
      const { value, ran, earned } = await effect('get_forecast', () => viaPython([request]));
      value.answers.forEach(isRun);
      assert.deepEqual([value.spent_sats, ran, earned], [3, 1, 3]);
    });
  }

  for (const [who, at, headers] of [
    ['anonymous', 'open', () => ({})],
    ['with a token', 'weather', () => bearer(token)],
  ]) {
    test(`PyPI bolthub inside MCP, ${who}`, async () => {
      const job = {
        url: `${gateway.url}/${at}/mcp`,
        headers: { ...modernHeaders('tools/call', 'get_forecast'), ...headers() },
        max_sats: 10,
        calls: ['Oslo', 'Rome'].map((city) => ({
          tool: 'get_forecast', arguments: { city: `${city} ${who}` }, meta: MODERN_META,
        })),
      };
      const { value, ran, earned } = await effect('get_forecast', () =>
        pythonJson('bolthub_mcp.py', { job, env: { WALLET_URL: parts.lightning } }));
      for (const result of value.results) assert.ok(result.structuredContent.sky);
      assert.deepEqual([value.paid.length, ran, earned], [2, 2, 6]);
    });
  }
});

describe('a credential', () => {
  test('says what it was sold for, and for whom', async () => {
    const { token: macaroon } = await buy(parts, gateway, 'weather', 'get_forecast', { city: 'x' }, {
      headers: bearer(token),
    });
    const caveats = Object.fromEntries(caveatsOf(macaroon).map((text) => {
      const at = text.indexOf('=');
      return [text.slice(0, at), text.slice(at + 1)];
    }));
    const { valid_until, quote, call, jti, ...named } = caveats;
    assert.deepEqual(named, {
      server: 'weather', tool: 'get_forecast', n_uses: '1', max_price_msat: '3000',
      tenant: 'default', iss: issuer.url, sub: 'alice', agent: 'web-agent',
    });
    for (const value of [quote, call, jti]) assert.ok(value);
    const { exp } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    assert.ok(Number(valid_until) <= exp, 'no longer valid than the token');
    assert.equal(decode(macaroon).identifier.length, 66);
  });

  test('is accepted in every form that clients send', async () => {
    const forms = {
      'as offered': (macaroon, preimage) => `L402 ${macaroon}:${preimage}`,
      'the old scheme': (macaroon, preimage) => `LSAT ${macaroon}:${preimage}`,
      'lower case': (macaroon, preimage) => `l402 ${macaroon}:${preimage}`,
      'URL-safe, unpadded': (macaroon, preimage) =>
        `L402 ${Buffer.from(macaroon, 'base64').toString('base64url')}:${preimage}`,
      'hex in capitals': (macaroon, preimage) => `L402 ${macaroon}:${preimage.toUpperCase()}`,
    };
    for (const [form, write] of Object.entries(forms)) {
      const args = { city: form };
      const paid = await buy(parts, gateway, 'open', 'get_forecast', args);
      const authorization = write(paid.token, paid.preimage);
      isRun(await callTool(gateway, 'open', 'get_forecast', args, { headers: { authorization } }));
    }
  });

  test('that was tampered with buys nothing, and stays usable as it was', async () => {
    const args = { city: 'tampered' };
    const paid = await buy(parts, gateway, 'open', 'get_forecast', args);
    const other = await buy(parts, gateway, 'open', 'get_forecast', { city: 'another' });
    const bits = Buffer.from(paid.token, 'base64').length * 8;
    const sampled = Array.from({ length: 40 }, (_, at) => Math.floor((at * bits) / 40) + (at % 8));
    const bad = [
      ['a caveat removed', 401, 'PAY-012', recaveat(paid.token, (list) => list.slice(0, -1))],
      ['the first caveat removed', 401, 'PAY-012', recaveat(paid.token, (list) => list.slice(1))],
      ['all caveats removed', 401, 'PAY-012', recaveat(paid.token, () => [])],
      ['caveats in another order', 401, 'PAY-012', recaveat(paid.token, (list) => [...list].reverse())],
      ['a caveat twice, unsigned', 401, 'PAY-012', recaveat(paid.token, ([head, ...rest]) => [head, head, ...rest])],
      ['an unknown caveat', 401, 'PAY-013', attenuate(paid.token, 'color=red')],
      ['a caveat that is none', 401, 'PAY-013', attenuate(paid.token, 'no equals sign')],
      ['a contradicting tool', 401, 'PAY-013', attenuate(paid.token, 'tool=get_report')],
      ['another root key', 401, 'PAY-012', remint(paid.token, 'countersign')],
      ['an empty root key', 401, 'PAY-012', remint(paid.token, '')],
      ['the preimage of another invoice', 401, 'PAY-014', paid.token, other.preimage],
      ['no preimage at all', 400, 'PAY-002', paid.token, ''],
      ['a preimage of zeros', 401, 'PAY-014', paid.token, '00'.repeat(32)],
      ['its own payment hash as preimage', 401, 'PAY-014', paid.token,
        decode(paid.token).identifier.subarray(2, 34).toString('hex')],
    ];
    const { ran, earned } = await effect('get_forecast', async () => {
      for (const [what, status, code, macaroon, preimage = paid.preimage] of bad) {
        const authorization = `L402 ${macaroon}:${preimage}`;
        const options = { headers: { authorization } };
        const answer = await callTool(gateway, 'open', 'get_forecast', args, options);
        assert.deepEqual([what, answer.status, answer.code], [what, status, code]);
      }
      for (const bit of sampled) {
        const authorization = `L402 ${flipBit(paid.token, bit)}:${paid.preimage}`;
        const options = { headers: { authorization } };
        const answer = await callTool(gateway, 'open', 'get_forecast', args, options);
        assert.match(answer.code ?? 'none', /^PAY-0(02|12|13|14)$/, `bit ${bit}: ${answer.text}`);
        assert.ok([400, 401].includes(answer.status), `bit ${bit}: ${answer.status}`);
      }
    });
    assert.deepEqual([ran, earned], [0, 0]);
    isRun(await callTool(gateway, 'open', 'get_forecast', args, { headers: l402(paid) }));
  });

  test('narrowed by its holder works within what is left, never beyond', async () => {
    const city = 'narrowed';
    const paid = await buy(parts, gateway, 'open', 'get_slow', { ms: 1, city });
    const soon = Math.floor(Date.now() / 1000) + 30;
    const narrow = attenuate(attenuate(paid.token, `valid_until=${soon}`), 'n_uses=2');
    const show = (macaroon, ms) =>
      callTool(gateway, 'open', 'get_slow', { ms, city }, { headers: l402({ ...paid, token: macaroon }) });
    assert.equal((await show(attenuate(paid.token, 'n_uses=9'), 1)).status, 200);
    assert.equal((await show(narrow, 2)).status, 200);
    isAsked(await show(narrow, 3), 'PAY-017', paid);
    assert.equal((await show(paid.token, 4)).status, 200, 'the wider one has a use left');
    isAsked(await show(paid.token, 5), 'PAY-017', paid);
    isAsked(await show(attenuate(paid.token, 'n_uses=9'), 6), 'PAY-017', paid);
    const past = attenuate(paid.token, 'valid_until=1700000000');
    isAsked(await show(past, 7), 'PAY-015', paid);
  });

  test('is used up by its one call: another call is asked for a fresh payment', async () => {
    const paid = await buy(parts, gateway, 'open', 'get_forecast', { city: 'first' });
    const show = (city) =>
      callTool(gateway, 'open', 'get_forecast', { city }, { headers: l402(paid) });
    const { ran, earned } = await effect('get_forecast', async () => {
      isAsked(await show('second'), 'PAY-017', paid);
      isRun(await show('first'));
      isAsked(await show('second'), 'PAY-017', paid);
      const again = await show('first');
      isRun(again);
      assert.ok(again.result._meta['countersign/replay-of'], 'its own call: the stored outcome');
    });
    assert.deepEqual([ran, earned], [1, 0]);
  });

  test('for one tool is no payment for another of the same price', async () => {
    const args = { city: 'the same arguments' };
    const paid = await buy(parts, gateway, 'open', 'get_forecast', args);
    const { ran } = await effect('get_report', async () =>
      isAsked(await callTool(gateway, 'open', 'get_report', args, { headers: l402(paid) }), 'PAY-017', paid));
    assert.equal(ran, 0);
    isRun(await callTool(gateway, 'open', 'get_forecast', args, { headers: l402(paid) }));
  });

  test('for one server is no payment for another', async () => {
    const args = { city: 'across servers' };
    const paid = await buy(parts, gateway, 'open', 'get_forecast', args);
    const headers = { ...bearer(token), 'x-mcp-auth-composite': `Payment ${paid.token}:${paid.preimage}` };
    isAsked(await callTool(gateway, 'weather', 'get_forecast', args, { headers }), 'PAY-017', paid);
  });

  test('of one person is none of another', async () => {
    const args = { city: 'whose' };
    const paid = await buy(parts, gateway, 'weather', 'get_forecast', args, { headers: bearer(token) });
    const bob = await issuer.userToken('bob', `${gateway.url}/weather/mcp`);
    const payment = `Payment ${paid.token}:${paid.preimage}`;
    const answer = await callTool(gateway, 'weather', 'get_forecast', args, {
      headers: { 'x-mcp-auth-composite': `Identity ${bob}, ${payment}` },
    });
    isAsked(answer, 'PAY-017', paid);
    const own = { headers: { 'x-mcp-auth-composite': `Identity ${token}, ${payment}` } };
    isRun(await callTool(gateway, 'weather', 'get_forecast', args, own));
  });

  test('for several calls, bought by nobody in particular, is none of somebody in particular', async () => {
    const args = { ms: 1, of: 'whose' };
    const paid = await buy(parts, gateway, 'open', 'get_slow', args);
    const alice = await issuer.userToken('alice', `${gateway.url}/open/mcp`);
    const composite = `Identity ${alice}, Payment ${paid.token}:${paid.preimage}`;
    const named = await effect('get_slow', () => callTool(gateway, 'open', 'get_slow', args, {
      headers: { 'x-mcp-auth-composite': composite },
    }));
    isAsked(named.value, 'PAY-017', paid);
    assert.deepEqual([named.ran, named.earned], [0, 0]);
    const nobodys = await callTool(gateway, 'open', 'get_slow', args, { headers: l402(paid) });
    assert.equal(nobodys.status, 200, nobodys.text);
  });

  test('that is paid for waits for consent: nothing is asked before it, nothing lost with it', async () => {
    const args = { city: 'granted' };
    const headers = bearer(await issuer.userToken('alice', `${gateway.url}/granted/mcp`));
    const before = await callTool(gateway, 'granted', 'get_forecast', args, { headers });
    isRefused(before, 403, 'CNS-001');
    assert.equal(lightningOffer(before), undefined, 'no money is asked for before consent');
    const approve = async () => (await gateway.cli(
      'grant', 'create', '--issuer', issuer.url, '--subject', 'alice', '--agent', 'web-agent',
      '--server', 'granted', '--tool', 'get_forecast', '--intent', 'read',
      '--per-call', '0.01 USD', '--expires', '1h',
    )).grant.id;

    const grant = await approve();
    const paid = await buy(parts, gateway, 'granted', 'get_forecast', args, { headers });
    const show = () => callTool(gateway, 'granted', 'get_forecast', args, { headers: l402(paid) });
    await gateway.cli('grant', 'revoke', grant);
    const { value, ran } = await effect('get_forecast', show);
    isRefused(value, 403, 'CNS-003');
    assert.deepEqual([value.problem.charged, ran], ['unused', 0]);
    await approve();
    isRun(await show());
  });

  test('that was revoked buys nothing any more', async () => {
    const args = { city: 'revoked' };
    const paid = await buy(parts, gateway, 'open', 'get_forecast', args);
    await gateway.cli('credential', 'revoke', sha256(decode(paid.token).identifier));
    const answer = await callTool(gateway, 'open', 'get_forecast', args, { headers: l402(paid) });
    isRefused(answer, 401, 'PAY-012');
  });

  test('is not used up by a tool that fails', async () => {
    const paid = await buy(parts, gateway, 'open', 'get_broken', {});
    for (const time of ['first', 'second']) {
      const { value, ran } = await effect('get_broken', () =>
        callTool(gateway, 'open', 'get_broken', {}, { headers: l402(paid) }));
      assert.equal(value.result?.isError, true, `${time}: ${value.text}`);
      assert.equal(value.result._meta['countersign/charged'], 'unused', value.text);
      assert.equal(ran, 1, time);
    }
  });
});

describe('many at once', () => {
  const together = (count, act) => Promise.all(Array.from({ length: count }, (_, at) => act(at)));

  test('32 uses of one credential with different arguments run once', async () => {
    const paid = await buy(parts, gateway, 'open', 'get_forecast', { city: 'race 0' });
    const { value, ran, earned } = await effect('get_forecast', () => together(32, (at) =>
      callTool(gateway, 'open', 'get_forecast', { city: `race ${at}` }, { headers: l402(paid) })));
    assert.deepEqual([ran, earned], [1, 0]);
    assert.deepEqual(value.map((answer) => answer.status), [200, ...Array(31).fill(402)]);
    const invoices = value.slice(1).map((answer) => {
      isAsked(answer, 'PAY-017', paid);
      return lightningOffer(answer).invoice;
    });
    assert.equal(new Set(invoices).size, 31);
  });

  test('32 uses of one credential with the same arguments run once', async () => {
    const args = { city: 'the same race' };
    const paid = await buy(parts, gateway, 'open', 'get_forecast', args);
    const { value, ran, earned } = await effect('get_forecast', () => together(32, () =>
      callTool(gateway, 'open', 'get_forecast', args, { headers: l402(paid) })));
    assert.deepEqual([ran, earned], [1, 0]);
    const kinds = new Set(value.map((answer) => `${answer.status} ${answer.code ?? ''}`.trim()));
    kinds.delete('200');
    kinds.delete('409 SYS-005');
    assert.deepEqual([...kinds], [], 'each gets the outcome, or is told that it runs');
  });

  test('a credential of three uses runs exactly three times', async () => {
    const paid = await buy(parts, gateway, 'open', 'get_slow', { ms: 5, n: 0 });
    const { value, ran, earned } = await effect('get_slow', () => together(12, (n) =>
      callTool(gateway, 'open', 'get_slow', { ms: 5, n }, { headers: l402(paid) })));
    assert.deepEqual([ran, earned], [3, 0]);
    const [run, asked] = [200, 402].map((status) => value.filter((a) => a.status === status));
    assert.deepEqual([run.length, asked.length], [3, 9]);
    for (const answer of asked) isAsked(answer, 'PAY-017', paid);
    const charged = run.map((answer) => receiptOf(answer.result).amount);
    assert.deepEqual(charged, Array(3).fill({ asset: 'BTC', minor: '1000' }), 'a third each');
  });

  test('the accounts balance after all that', async () => {
    assert.deepEqual(await unbalanced(gateway), []);
  });
});

describe('where credentials stand', () => {
  let composite;
  let paid;
  const args = { city: 'composite' };
  before(async () => {
    paid = await buy(parts, gateway, 'weather', 'get_forecast', args, { headers: bearer(token) });
    composite = { identity: token, payment: `${paid.token}:${paid.preimage}` };
  });

  test('two Authorization lines, in either order', async () => {
    const lines = [`Bearer ${token}`, `L402 ${composite.payment}`];
    for (const order of [lines, [...lines].reverse()]) {
      const sent = order.flatMap((value) => ['authorization', value]);
      isRun(await callRaw(gateway, 'weather', 'get_forecast', args, sent));
    }
  });

  test('the composite header in any order, spacing and case', async () => {
    const { identity, payment } = composite;
    for (const value of [
      `Identity ${identity}, Payment ${payment}`,
      `Payment ${payment}, Identity ${identity}`,
      `identity ${identity},payment ${payment}`,
      `  PAYMENT \t ${payment}  ,\t IDENTITY   ${identity} `,
      `Payment ${payment.replace(':', ' : ')} , Identity ${identity}`,
    ]) {
      isRun(await callRaw(gateway, 'weather', 'get_forecast', args, ['x-mcp-auth-composite', value]));
    }
    const cased = ['X-MCP-AUTH-COMPOSITE', `Identity ${identity}, Payment ${payment}`];
    isRun(await callRaw(gateway, 'weather', 'get_forecast', args, cased));
  });

  for (const [client, accept] of [['fetch', {}], ['an MCP client', MCP_ACCEPT]]) {
    test(`the identity part alone, from ${client}, is asked for payment in its own form`, async () => {
      const headers = { 'x-mcp-auth-composite': `Identity ${token}`, ...accept };
      const options = { headers };
      const answer = await callTool(gateway, 'weather', 'get_forecast', { city: client }, options);
      isAsked(answer, 'PAY-001');
      const { error, invoice, macaroon } = JSON.parse(answer.text);
      assert.equal(error, 'payment_required');
      assert.deepEqual({ invoice, token: macaroon }, lightningOffer(answer));
    });
  }

  test('the payment part alone: the macaroon says who', async () => {
    const value = `Payment ${composite.payment}`;
    isRun(await callRaw(gateway, 'weather', 'get_forecast', args, ['x-mcp-auth-composite', value]));
  });

  test('each part is judged by itself', async () => {
    const { identity, payment } = composite;
    const forged = `${identity.slice(0, -8)}AAAAAAAA`;
    for (const [value, status, code] of [
      [`Identity ${forged}, Payment ${payment}`, 401, 'IDN-003'],
      [`Identity ${identity}, Payment ${payment.slice(0, -2)}zz`, 400, 'PAY-002'],
      [`Identity ${identity}, Payment ${payment.slice(0, -64)}${'00'.repeat(32)}`, 401, 'PAY-014'],
      [`Identity ${identity}, Identity ${identity}`, 400, 'PAY-002'],
      [`Payment ${payment}, Payment ${payment}`, 400, 'PAY-002'],
      [`Bearer ${identity}`, 400, 'PAY-002'],
      ['', 400, 'PAY-002'],
    ]) {
      const lines = ['x-mcp-auth-composite', value];
      isRefused(await callRaw(gateway, 'weather', 'get_forecast', args, lines), status, code);
    }
  });

  test('two of a kind that differ are refused', async () => {
    const { identity, payment } = composite;
    const elsewhere = await buy(parts, gateway, 'open', 'get_forecast', { city: 'elsewhere' });
    const bob = await issuer.userToken('bob', `${gateway.url}/weather/mcp`);
    for (const [lines, status, code] of [
      [['authorization', `Bearer ${bob}`, 'x-mcp-auth-composite', `Identity ${identity}`], 400, 'REQ-013'],
      [['authorization', `L402 ${payment}`, 'x-mcp-auth-composite', `Payment ${elsewhere.token}:${elsewhere.preimage}`], 400, 'REQ-013'],
      [['authorization', `Bearer ${token}`, 'authorization', `Bearer ${bob}`], 400, 'REQ-014'],
      [['authorization', `L402 ${payment}`, 'authorization', `L402 ${payment}`], 400, 'REQ-014'],
      [['x-mcp-auth-composite', `Identity ${identity}`, 'x-mcp-auth-composite', `Identity ${identity}`], 400, 'REQ-014'],
    ]) {
      isRefused(await callRaw(gateway, 'weather', 'get_forecast', args, lines), status, code);
    }
  });
});

describe('a changed policy', () => {
  test('refuses a paid credential, which stays usable, over restarts too', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-e2e-'));
    const bundle = fileURLToPath(new URL('../crates/gateway/policy', import.meta.url));
    cpSync(bundle, path.join(dir, 'policy'), { recursive: true });
    const rules = path.join(dir, 'policy', 'policies.cedar');
    const original = readFileSync(rules, 'utf8');
    const config = { servers: { open: servers.open }, policy: { dir: './policy' } };
    const strict = await startBefore(parts, config, { dir });
    try {
      const args = { city: 'under another policy' };
      const paid = await buy(parts, strict, 'open', 'get_forecast', args);
      const show = () => callTool(strict, 'open', 'get_forecast', args, { headers: l402(paid) });
      writeFileSync(rules, `${original}
        @id("forecast.closed") @reason("FORECAST_CLOSED")
        forbid (principal, action, resource == Tool::"open/get_forecast");`);
      await strict.restart();
      const refused = await show();
      isRefused(refused, 403, 'POL-001');
      assert.equal(refused.problem.charged, 'unused', 'paid for, and not used up');
      writeFileSync(rules, original);
      await strict.restart();
      const { value, ran, earned } = await effect('get_forecast', show);
      isRun(value);
      assert.deepEqual([ran, earned], [1, 0]);
    } finally {
      await strict.stop();
      rmSync(dir, { recursive: true, force: true });
    }
  });
});

describe('one payment for several calls', () => {
  test('each call counts its share; what is asked for counts whole, once it is asked for', async () => {
    const headers = bearer(await issuer.userToken('alice', `${gateway.url}/bundle/mcp`));
    // Above the share and below the price of the bundle.
    const { grant } = await gateway.cli(
      'grant', 'create', '--issuer', issuer.url, '--subject', 'alice', '--agent', 'web-agent',
      '--server', 'bundle', '--tool', 'get_forecast', '--intent', 'read',
      '--per-call', '0.001 USD', '--expires', '1h',
    );
    const call = (city, options = { headers }) =>
      callTool(gateway, 'bundle', 'get_forecast', { city }, options);
    const left = async () => {
      const { body } = await admin(gateway, '/v1/budgets');
      return body.items.find(({ name }) => name === 'bundle').remaining;
    };
    const paid = await buy(parts, gateway, 'bundle', 'get_forecast', { city: 'one' }, { headers });
    const shown = { headers: l402(paid) };
    for (const [city, remaining] of [
      ['one', '0.0029 USD'], ['two', '0.0023 USD'], ['three', '0.0017 USD'],
    ]) {
      isRun(await call(city, shown));
      assert.equal(await left(), remaining);
    }
    // Used up: another bundle would be asked for, and there is no room for it.
    const spent = await call('four', shown);
    isRefused(spent, 429, 'BUD-001');
    assert.equal(lightningOffer(spent), undefined, 'money is asked for that nothing could be done with');
    assert.equal(await left(), '0.0017 USD');
    // Nor are people asked to agree to it.
    await gateway.cli('grant', 'revoke', grant.id);
    const doomed = await call('four', shown);
    assert.match(doomed.code, /^CNS-/, doomed.text);
    assert.equal(doomed.problem.facts.approval, undefined, doomed.text);
    const { items } = await gateway.cli('approvals', 'list');
    assert.deepEqual(items.filter(({ server }) => server === 'bundle'), []);
  });

  test('it is tied to the grant under which it was sold, and pays under no other', async () => {
    const headers = bearer(await issuer.userToken('alice', `${gateway.url}/tied/mcp`));
    const approve = async () => (await gateway.cli(
      'grant', 'create', '--issuer', issuer.url, '--subject', 'alice', '--agent', 'web-agent',
      '--server', 'tied', '--tool', 'get_forecast', '--intent', 'read',
      '--per-call', '0.01 USD', '--expires', '1h',
    )).grant.id;
    const grant = await approve();
    const paid = await buy(parts, gateway, 'tied', 'get_forecast', { city: 'one' }, { headers });
    const tie = `grant=${sha256(Buffer.from(grant.slice('grant_'.length), 'hex'))}`;
    assert.ok(caveatsOf(paid.token).includes(tie), `${caveatsOf(paid.token)}`);
    const show = (city) => callTool(gateway, 'tied', 'get_forecast', { city }, { headers: l402(paid) });
    const later = await approve();
    isRun(await show('one'));
    isRun(await show('two'));
    await gateway.cli('grant', 'revoke', grant);
    const { value, ran } = await effect('get_forecast', () => show('three'));
    isAsked(value, 'PAY-017', paid);
    assert.equal(ran, 0, 'the other grant is no leave to spend it');
    await gateway.cli('grant', 'revoke', later);
    isRefused(await show('three'), 403, 'CNS-003');
  });

  test('a budget that has room for the share alone asks for nothing', async () => {
    const headers = bearer(await issuer.userToken('alice', `${gateway.url}/narrow/mcp`));
    const answer = await callTool(gateway, 'narrow', 'get_forecast', { city: 'x' }, { headers });
    isRefused(answer, 429, 'BUD-001');
    assert.equal(lightningOffer(answer), undefined, answer.text);
  });
});

describe('what was refused', () => {
  test('is recorded under the code that was answered', async () => {
    const paid = await buy(parts, gateway, 'open', 'get_forecast', { city: 'recorded' });
    const options = { headers: l402(paid) };
    const answer = await callTool(gateway, 'open', 'get_forecast', { city: 'else' }, options);
    isAsked(answer, 'PAY-017', paid);
    const last = (await calls(gateway)).find(({ call }) => call === answer.problem.call_id);
    assert.equal(last?.code, 'PAY-017');
  });
});
