// Proof of work instead of money: solved by clients of three kinds and by our own, refused in every
// way that it can be wrong, and never in the way of those who pay.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { gatewayBinary } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { attenuate, flipBit } from './lib/macaroon.mjs';
import { altcha, fail, powMeta, solve, solveBits, stamp, workOffer } from './lib/pow.mjs';
import { freePort, start, until } from './lib/process.mjs';
import {
  MCP_ACCEPT, MERCHANT, admin, buy, callTool, calls, l402, lightningOffer, published,
  receiptOf, startBefore, startParts, unbalanced, verifyLog,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  // For anybody.
  open: {
    tools: {
      status: { price: 'free', ...anonymous },
      get_forecast: { price: ['3 sat', '0.01 USDC', 'work'], ...anonymous },
      get_report: { price: 'work', ...anonymous },
      get_broken: { price: 'work', ...anonymous },
      get_slow: { price: '3 sat', ...anonymous },
    },
  },
  // For whoever has a token.
  weather: { tools: { get_forecast: { price: ['3 sat', 'work'], consent: 'none' } } },
  // For whoever has a token and a grant.
  granted: { tools: { get_forecast: { price: ['3 sat', 'work'] } } },
};
const pow = { capacity_per_s: 1000, daily_quota: 1000, min_difficulty: 2000, max_difficulty: 8000 };

let parts;
let issuer;
let gateway;
let token;
let bob;

/** A gateway with this free lane. */
async function startWith(changes, { servers: own = servers, ...options } = {}) {
  const rails = {
    x402: { pay_to: MERCHANT, facilitator: { sandbox: parts.facilitator } },
    l402: { source: { sandbox: parts.lightning } },
    pow: { ...pow, ...changes },
  };
  return startBefore(parts, { servers: own, rails, issuers: [issuer.url] }, options);
}

before(async () => {
  parts = await startParts();
  const port = await freePort();
  const resource = (at) => `http://127.0.0.1:${port}/${at}/mcp`;
  issuer = await startIssuer({ resources: Object.keys(servers).map(resource) });
  gateway = await startWith({}, { port });
  token = await issuer.userToken('alice', resource('weather'));
  bob = await issuer.userToken('bob', resource('weather'));
});
after(async () => {
  await gateway?.stop();
  await issuer?.stop();
  await parts?.stop();
});

let cities = 0;
/** Arguments that no other test has. */
const anew = () => ({ city: `Oslo ${++cities}` });
const isRun = (answer) => assert.ok(answer.result && !answer.result.isError, answer.text);

function isRefused(answer, status, code) {
  assert.deepEqual([answer.status, answer.code], [status, code], answer.text);
  assert.equal(answer.problem.charged, 'no', answer.text);
}

/** What `act` did: runs of a tool, and money that came in. */
async function effect(tool, act) {
  const state = async () => [
    await parts.ran(tool), await parts.earnedMsat(), await parts.settled(),
  ];
  const earlier = await state();
  const value = await act();
  const [ran, earned, settled] = (await state()).map((now, index) => now - earlier[index]);
  return { value, ran, earned, settled };
}

/** Calls, solves what is offered in the answer, and calls again with the solution. */
async function callSolved(at, tool, args, { how = solve, headers, on = gateway } = {}) {
  const offer = workOffer(await callTool(on, at, tool, args, { headers }));
  const meta = powMeta(offer.nonce, await how(offer));
  return callTool(on, at, tool, args, { headers, meta });
}

/** The pieces of an endpoint's answer. */
async function postJson(url, body, headers = {}) {
  const init = { method: 'POST', headers: { 'content-type': 'application/json', ...headers } };
  const response = await fetch(url, { ...init, body: JSON.stringify(body) });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

describe('the offer', () => {
  test('beside money, in a 402 and in a tool result', async () => {
    const args = anew();
    const http = await callTool(gateway, 'open', 'get_forecast', args);
    assert.equal(http.status, 402);
    const offer = workOffer(http);
    assert.equal(offer.nonce.length, 156);
    assert.ok(offer.expiresAt - Date.now() <= 60_000 && offer.expiresAt > Date.now());
    assert.equal(offer.difficulty, 2000);
    const header = http.headers.get('pow-challenge');
    assert.match(header, /^nonce="[\w-]{156}", target="[0-9a-f]{64}", bits=11, expires=\d+$/);
    assert.ok(lightningOffer(http) && http.headers.get('payment-required'), 'money is offered too');
    const mcp = await callTool(gateway, 'open', 'get_forecast', args, { headers: MCP_ACCEPT });
    assert.equal(mcp.status, 200);
    assert.notEqual(workOffer(mcp).nonce, offer.nonce, 'each challenge is another');
    assert.ok(mcp.result.isError && lightningOffer(mcp));
  });

  test('alone, where nothing else is asked', async () => {
    const answer = await callTool(gateway, 'open', 'get_report', anew());
    assert.deepEqual([answer.status, answer.code], [402, 'PAY-001']);
    assert.ok(workOffer(answer));
    assert.equal(lightningOffer(answer), undefined);
  });

  test('not before everything else says yes', async () => {
    const headers = bearer(await issuer.userToken('alice', `${gateway.url}/granted/mcp`));
    const answer = await callTool(gateway, 'granted', 'get_forecast', anew(), { headers });
    assert.equal(answer.code, 'CNS-001', answer.text);
    assert.equal(workOffer(answer), undefined);
  });
});

describe('solved', () => {
  const solvers = { target: solve, 'leading zero bits': solveBits, hashcash: stamp, altcha };
  for (const [name, how] of Object.entries(solvers)) {
    test(`by ${name}`, async () => {
      const args = anew();
      const { value, ran, earned, settled } = await effect('get_forecast', () =>
        callSolved('open', 'get_forecast', args, { how }));
      isRun(value);
      assert.deepEqual([ran, earned, settled], [1, 0, 0]);
      const receipt = receiptOf(value.result);
      assert.deepEqual([receipt.rail, receipt.amount.minor], ['pow', '0'], value.text);
    });
  }

  test('in a header, as plain HTTP', async () => {
    const args = anew();
    const offer = workOffer(await callTool(gateway, 'open', 'get_report', args));
    const headers = { 'pow-solution': `${offer.nonce}:${solve(offer)}` };
    isRun(await callTool(gateway, 'open', 'get_report', args, { headers }));
  });

  test('with a token, for its person', async () => {
    const answer = await callSolved('weather', 'get_forecast', anew(), { headers: bearer(token) });
    isRun(answer);
    const { body } = await admin(gateway, `/v1/calls/${receiptOf(answer.result).call}`);
    assert.equal(body.call.agent, 'web-agent');
    assert.ok(body.call.delegator);
  });

  test('by `countersign call`, without a wallet', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-work-'));
    try {
      const { value: run, ran } = await effect('get_forecast', async () => {
        const args = ['call', `${gateway.url}/open/mcp`, 'get_forecast', JSON.stringify(anew())];
        const command = start(gatewayBinary, [...args, '--credentials', dir, '--threads', '2']);
        return { code: (await command.ended).code, out: command.stdout(), err: command.stderr() };
      });
      assert.equal(run.code, 0, run.out + run.err);
      const said = JSON.parse(run.out);
      assert.deepEqual([said.outcome, said.paid.rail, ran], ['ok', 'pow', 1]);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  test('by `countersign call` on a terminal, with a bar', async () => {
    const args = `'${JSON.stringify(anew())}'`;
    const call = `${gatewayBinary} call ${gateway.url}/open/mcp get_report ${args}`;
    const command = start('script', ['-qec', call, '/dev/null'], { env: { HOME: os.tmpdir() } });
    const { code } = await command.ended;
    assert.equal(code, 0, command.output());
    assert.match(command.stdout(), /working \[[# ]{30}\] .* of about 2k hashes/);
    assert.match(command.stdout(), /paid: work instead of money/);
  });

  test('by `countersign call`, until Ctrl-C', async () => {
    const lane = await startWith({ min_difficulty: 1e12, max_difficulty: 1e12 });
    try {
      const args = ['call', `${lane.url}/open/mcp`, 'get_report', JSON.stringify(anew())];
      const command = start(gatewayBinary, [...args, '--max-work', '2000000000000']);
      await until('it is asked', async () => (await calls(lane)).length > 0);
      process.kill(command.pid, 'SIGINT');
      const begun = Date.now();
      await command.ended;
      assert.ok(Date.now() - begun < 5_000);
    } finally {
      await lane.stop();
    }
  });

  test('not by `countersign call` beyond what it may compute', async () => {
    const args = ['call', `${gateway.url}/open/mcp`, 'get_report', JSON.stringify(anew())];
    const command = start(gatewayBinary, [...args, '--max-work', '100']);
    const { code } = await command.ended;
    assert.equal(code, 14, command.stdout());
    assert.equal(JSON.parse(command.stdout()).offers[0].rail, 'pow');
  });
});

describe('the endpoints', () => {
  const at = (step, server = '/open') => `${gateway.url}${server}/mcp/pow/${step}`;
  const asked = async (args) => {
    const { status, body } = await postJson(at('challenge'), { tool: 'get_report', arguments: args });
    assert.equal(status, 200, JSON.stringify(body));
    return body;
  };

  test('challenge, solution, macaroon, one call', async () => {
    const args = anew();
    const offer = await asked(args);
    assert.ok(['nonce', 'target', 'expiresAt'].every((member) => member in offer));
    const nonce = offer.nonce;
    const solution = solve(offer);
    const { status, body } = await postJson(at('verify'), { nonce, solution });
    assert.equal(status, 200, JSON.stringify(body));
    assert.ok(body.ttl > 0 && body.ttl <= 60);
    const again = await postJson(at('verify'), { nonce, solution });
    assert.equal(again.body.macaroon, body.macaroon, 'the same work is the same macaroon');
    const headers = { authorization: `L402 ${body.macaroon}:${body.preimage}` };
    const { value, ran } = await effect('get_report', async () => {
      const answers = [
        await callTool(gateway, 'open', 'get_report', args, { headers }),
        await callTool(gateway, 'open', 'get_report', args, { headers }),
        await callTool(gateway, 'open', 'get_report', args, { meta: powMeta(nonce, solution) }),
      ];
      return answers;
    });
    value.forEach(isRun);
    assert.equal(ran, 1, 'macaroon and solution are one use');
    const composite = { 'x-mcp-auth-composite': `Payment ${body.macaroon}:${body.preimage}` };
    isRun(await callTool(gateway, 'open', 'get_report', args, { headers: composite }));
    const other = await callTool(gateway, 'open', 'get_report', anew(), { headers });
    isRefused(other, 402, 'PAY-006');
  });

  test('a macaroon that was touched is refused', async () => {
    const offer = await asked(anew());
    const solution = solve(offer);
    const { body } = await postJson(at('verify'), { nonce: offer.nonce, solution });
    const present = (macaroon, preimage = body.preimage) =>
      callTool(gateway, 'open', 'get_report', {}, {
        headers: { authorization: `L402 ${macaroon}:${preimage}` },
      });
    isRefused(await present(flipBit(body.macaroon, Buffer.from(body.macaroon, 'base64').length * 8 - 1)), 401, 'PAY-012');
    isRefused(await present(attenuate(body.macaroon, 'unheard=of')), 401, 'PAY-013');
    isRefused(await present(body.macaroon, '00'.repeat(32)), 401, 'PAY-014');
  });

  test('what is no solution is answered 400', async () => {
    const offer = await asked(anew());
    const { nonce } = offer;
    for (const [body, code] of [
      [{ nonce, solution: fail(offer) }, 'PAY-022'],
      [{ nonce: `${nonce.slice(0, -1)}A`, solution: '1' }, 'PAY-021'],
      [{ nonce, solution: '' }, 'PAY-002'],
      [{ nonce }, 'PAY-002'],
    ]) {
      const answer = await postJson(at('verify'), body);
      assert.deepEqual([answer.status, answer.body.error], [400, 'invalid_solution']);
      assert.equal(answer.body.code, code);
    }
  });

  test('a challenge is asked for with a call, of a tool that takes work', async () => {
    for (const [body, status, code] of [
      [{}, 400, 'REQ-001'],
      [{ tool: 'nothing' }, 404, 'REQ-015'],
      [{ tool: 'get_slow' }, 402, 'PAY-005'],
    ]) {
      const answer = await postJson(at('challenge'), body);
      assert.deepEqual([answer.status, answer.body.code], [status, code]);
    }
    const asks = { tool: 'get_forecast', arguments: anew() };
    const unknown = await postJson(at('challenge', '/weather'), asks);
    assert.deepEqual([unknown.status, unknown.body.code], [401, 'IDN-001']);
    assert.ok(unknown.headers.get('www-authenticate').startsWith('Bearer'));
    const known = await postJson(at('challenge', '/weather'), asks, bearer(token));
    assert.equal(known.status, 200);
    const meta = powMeta(known.body.nonce, solve(known.body));
    const answer = await callTool(gateway, 'weather', 'get_forecast', asks.arguments, {
      headers: bearer(token), meta,
    });
    isRun(answer);
    assert.equal((await postJson(at('challenge', ''), asks)).status, 404, 'several servers');
  });
});

describe('refused', () => {
  const tried = async (args, meta, options = {}) => {
    const before = await parts.ran('get_report');
    const answer = await callTool(gateway, 'open', 'get_report', args, { meta, ...options });
    return { answer, ran: (await parts.ran('get_report')) - before };
  };
  const asked = async (args) => workOffer(await callTool(gateway, 'open', 'get_report', args));

  test('replayed: it runs once, whoever sends it how often', async () => {
    const args = anew();
    const offer = await asked(args);
    const meta = powMeta(offer.nonce, solve(offer));
    const { value, ran } = await effect('get_report', () =>
      Promise.all(Array.from({ length: 8 }, () =>
        callTool(gateway, 'open', 'get_report', args, { meta }))));
    assert.equal(ran, 1);
    for (const answer of value.filter((answer) => !answer.result)) {
      assert.equal(answer.code, 'SYS-005', answer.text);
    }
    const late = await callTool(gateway, 'open', 'get_report', args, { meta });
    isRun(late);
    assert.ok(late.result._meta['countersign/replay-of'], 'the first outcome, not a second run');
  });

  test('after its call has failed', async () => {
    const offer = workOffer(await callTool(gateway, 'open', 'get_broken', {}));
    const meta = powMeta(offer.nonce, solve(offer));
    const { ran } = await effect('get_broken', async () => {
      const first = await callTool(gateway, 'open', 'get_broken', {}, { meta });
      assert.ok(first.result?.isError, first.text);
      const second = await callTool(gateway, 'open', 'get_broken', {}, { meta });
      isRefused(second, 409, 'PAY-008');
    });
    assert.equal(ran, 1);
  });

  test('for other arguments, and for another tool', async () => {
    const args = anew();
    const offer = await asked(args);
    const meta = powMeta(offer.nonce, solve(offer));
    const { answer, ran } = await tried(anew(), meta);
    isRefused(answer, 402, 'PAY-006');
    assert.equal(ran, 0);
    assert.ok(workOffer(answer), 'with a challenge of its own');
    const tool = await callTool(gateway, 'open', 'get_forecast', args, { meta });
    isRefused(tool, 402, 'PAY-006');
    isRun(await callTool(gateway, 'open', 'get_report', args, { meta }), 'nothing has used it');
  });

  test('below its target', async () => {
    const args = anew();
    const offer = await asked(args);
    const { answer, ran } = await tried(args, powMeta(offer.nonce, fail(offer)));
    isRefused(answer, 402, 'PAY-022');
    assert.equal(ran, 0);
    const weak = stamp({ nonce: offer.nonce, bits: 3 }, 30);
    isRefused((await tried(args, powMeta(offer.nonce, weak))).answer, 402, 'PAY-022');
    const own = JSON.parse(Buffer.from(await altcha(offer), 'base64'));
    for (const edit of [{ number: own.number + 1 }, { signature: '' }, { algorithm: 'SHA-1' }]) {
      const payload = Buffer.from(JSON.stringify({ ...own, ...edit })).toString('base64');
      isRefused((await tried(args, powMeta(offer.nonce, payload))).answer, 402, 'PAY-022');
    }
  });

  test('pre-mined, edited, or from another deployment', async () => {
    const args = anew();
    const other = await startWith({});
    const foreign = workOffer(await callTool(other, 'open', 'get_report', args));
    await other.stop();
    const own = await asked(args);
    const bytes = Buffer.from(own.nonce, 'base64url');
    bytes.writeBigUInt64BE(1n, 29); // its difficulty
    const eased = { nonce: bytes.toString('base64url'), target: 'f'.repeat(64) };
    const mined = { nonce: Buffer.alloc(117, 1).toString('base64url'), target: own.target };
    for (const offer of [foreign, eased, mined]) {
      const { answer, ran } = await tried(args, powMeta(offer.nonce, solve(offer)));
      isRefused(answer, 402, 'PAY-021');
      assert.equal(ran, 0);
    }
  });

  test('done for another caller', async () => {
    const args = anew();
    const headers = bearer(token);
    const offer = workOffer(await callTool(gateway, 'weather', 'get_forecast', args, { headers }));
    const meta = powMeta(offer.nonce, solve(offer));
    const stolen = await callTool(gateway, 'weather', 'get_forecast', args, {
      headers: bearer(bob), meta,
    });
    isRefused(stolen, 402, 'PAY-024');
    isRun(await callTool(gateway, 'weather', 'get_forecast', args, { headers, meta }));
  });

  test('in a form that is none, in two that differ, and beside money', async () => {
    const args = anew();
    const offer = await asked(args);
    const good = `${offer.nonce}:${solve(offer)}`;
    const malformed = await tried(args, { 'countersign/pow': { nonce: offer.nonce } });
    isRefused(malformed.answer, 400, 'PAY-002');
    const headers = { 'pow-solution': good };
    const differ = await tried(args, powMeta(offer.nonce, 'other'), { headers });
    isRefused(differ.answer, 400, 'REQ-013');
    const credential = await buy(parts, gateway, 'open', 'get_forecast', args);
    const both = await callTool(gateway, 'open', 'get_forecast', args, {
      headers: { ...headers, ...l402(credential) },
    });
    isRefused(both, 400, 'REQ-013');
  });

  test('where work is not taken', async () => {
    const offer = await asked({});
    const meta = powMeta(offer.nonce, solve(offer));
    const answer = await callTool(gateway, 'open', 'get_slow', {}, { meta });
    isRefused(answer, 402, 'PAY-005');
    isRun(await callTool(gateway, 'open', 'status', {}, { meta }), 'free is free');
  });

  test('by policy and consent as any other call', async () => {
    const granted = `${gateway.url}/granted/mcp`;
    const headers = bearer(await issuer.userToken('alice', granted));
    const args = anew();
    const asks = { tool: 'get_forecast', arguments: args };
    const { body: offer } = await postJson(`${granted}/pow/challenge`, asks, headers);
    const meta = powMeta(offer.nonce, solve(offer));
    const { value, ran } = await effect('get_forecast', () =>
      callTool(gateway, 'granted', 'get_forecast', args, { headers, meta }));
    isRefused(value, 403, 'CNS-001');
    assert.equal(ran, 0);
  });
});

describe('limits', () => {
  test('expired', async () => {
    const lane = await startWith({ ttl: '10s' });
    try {
      const args = anew();
      const offer = workOffer(await callTool(lane, 'open', 'get_report', args));
      const meta = powMeta(offer.nonce, solve(offer));
      const url = `${lane.url}/open/mcp/pow/verify`;
      await new Promise((done) => setTimeout(done, offer.expiresAt - Date.now() + 50));
      const answer = await callTool(lane, 'open', 'get_report', args, { meta });
      isRefused(answer, 402, 'PAY-023');
      assert.ok(workOffer(answer), 'with a new challenge');
      const { nonce, solution } = meta['countersign/pow'];
      const late = await postJson(url, { nonce, solution });
      assert.deepEqual([late.status, late.body.code], [400, 'PAY-023']);
    } finally {
      await lane.stop();
    }
  });

  test('a day has its quota, harder towards its end; money is not counted', async () => {
    const lane = await startWith({ daily_quota: 2 });
    try {
      const first = anew();
      assert.equal(workOffer(await callTool(lane, 'open', 'get_forecast', first)).difficulty, 2000);
      isRun(await callSolved('open', 'get_forecast', first, { on: lane }));
      const second = anew();
      assert.equal(workOffer(await callTool(lane, 'open', 'get_forecast', second)).difficulty, 3000);
      const ahead = anew();
      const early = workOffer(await callTool(lane, 'open', 'get_report', ahead));
      isRun(await callSolved('open', 'get_forecast', second, { on: lane }));

      const args = anew();
      const money = await callTool(lane, 'open', 'get_forecast', args);
      assert.equal(money.status, 402);
      assert.ok(lightningOffer(money));
      assert.equal(workOffer(money), undefined, 'no work is offered any more');
      isRefused(await callTool(lane, 'open', 'get_report', args), 429, 'PAY-025');
      const saved = powMeta(early.nonce, solve(early));
      isRefused(await callTool(lane, 'open', 'get_report', ahead, { meta: saved }), 429, 'PAY-025');
      const asks = { tool: 'get_report', arguments: args };
      const endpoint = await postJson(`${lane.url}/open/mcp/pow/challenge`, asks);
      assert.deepEqual([endpoint.status, endpoint.body.code], [429, 'PAY-025']);

      await lane.restart();
      isRefused(await callTool(lane, 'open', 'get_report', args), 429, 'PAY-025');
      const credential = await buy(parts, lane, 'open', 'get_forecast', args);
      const headers = l402(credential);
      isRun(await callTool(lane, 'open', 'get_forecast', args, { headers }));
    } finally {
      await lane.stop();
    }
  });

  test('a flood fills the free lane, and the paid one does not feel it', async () => {
    const lane = await startWith({ capacity_per_s: 1, min_difficulty: 200, max_difficulty: 100_000 });
    try {
      const easy = workOffer(await callTool(lane, 'open', 'get_report', anew())).difficulty;
      let isOver = false;
      const paid = (async () => {
        const answers = [];
        while (!isOver) {
          const args = anew();
          const headers = l402(await buy(parts, lane, 'open', 'get_forecast', args));
          answers.push(await callTool(lane, 'open', 'get_forecast', args, { headers }));
        }
        return answers;
      })();
      const flood = [];
      for (let n = 0; n < 40; n++) flood.push(await callSolved('open', 'get_report', anew(), { on: lane }));
      isOver = true;
      const served = flood.filter((answer) => answer.result);
      const turned = flood.filter((answer) => answer.code === 'PAY-026');
      assert.equal(served.length + turned.length, 40, flood.find((a) => !a.result)?.text);
      assert.ok(served.length >= 10 && served.length <= 20, `${served.length} served`);
      isRefused(turned[0], 503, 'PAY-026');
      const answers = await paid;
      assert.ok(answers.length > 0);
      answers.forEach(isRun);
      // Its draw is had: the same proof again is turned away again, and counts no second time.
      const args = anew();
      const offer = workOffer(await callTool(lane, 'open', 'get_report', args));
      const meta = powMeta(offer.nonce, solve(offer));
      const again = [];
      for (let n = 0; n < 5; n++) again.push(await callTool(lane, 'open', 'get_report', args, { meta }));
      assert.equal(new Set(again.map((answer) => answer.code ?? 'ran')).size, 1);
      await new Promise((done) => setTimeout(done, 10_000));
      const hard = workOffer(await callTool(lane, 'open', 'get_report', anew())).difficulty;
      assert.ok(hard > easy, `${easy} before the flood, ${hard} after it`);
    } finally {
      await lane.stop();
    }
  });
});

test('every call for work has its records, and the books balance', async () => {
  await published(gateway);
  const all = await calls(gateway);
  const worked = all.filter((call) => call.rail === 'pow');
  assert.ok(worked.length > 10 && worked.every((call) => call.records.length >= 6));
  assert.ok(worked.some((call) => call.state === 'released'));
  assert.deepEqual(await unbalanced(gateway), []);
  const verified = await verifyLog(gateway);
  assert.equal(verified.code, 0, JSON.stringify(verified));
});

test('the JSON template loads with its proof of work, and one server needs no name', async () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-template-'));
  try {
    const file = path.join(dir, 'template.json');
    const payment = {
      protocol: 'l402', pow_enabled: true, pow_difficulty: 10, pricing: { get_report: { sats: 3 } },
    };
    const tools = [{ name: 'get_report', requires_payment: true, requires_identity: false }];
    const mcp_server = { transport: 'http_streamable', auth: { payment }, tools };
    writeFileSync(file, JSON.stringify({ mcp_server }));
    const checked = start(gatewayBinary, ['check', '--config', file]);
    await checked.ended;
    assert.doesNotMatch(checked.output(), /pow_/, 'no member of it is without an equivalent');
    assert.match(checked.output(), /1024 to 4000000 hashes/);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  const single = await startWith({}, { servers: { main: servers.open } });
  try {
    const args = anew();
    const asks = { tool: 'get_report', arguments: args };
    const { body: offer } = await postJson(`${single.url}/mcp/pow/challenge`, asks);
    const solved = { nonce: offer.nonce, solution: solve(offer) };
    const { body } = await postJson(`${single.url}/mcp/pow/verify`, solved);
    const headers = { authorization: `L402 ${body.macaroon}:${body.preimage}` };
    isRun(await callTool(single, 'main', 'get_report', args, { headers }));
  } finally {
    await single.stop();
  }
});
