// The client as a library, in three languages: each example calls a real gateway and pays, once and
// within its caps; and what the one-file clients do under programs that know nothing of them.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { privateKeyToAccount } from 'viem/accounts';

import { startIssuer } from './lib/issuer.mjs';
import { legacyClient, modernClient } from './lib/mcpclients.mjs';
import { CLIENTS, callWith, compile } from './lib/paying.mjs';
import { freePort, until } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import {
  MCP_ACCEPT, MERCHANT, answerOf, receiptOf, startBefore, startParts, toolCall,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';

/** A key that everybody knows; its account has sandbox money. */
const KEY = '0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80';
const PAGE = 'https://approve.example.com/';
const anonymous = { identity: 'anonymous' };

let parts, issuer, gateway, token, countersign, NotPaid;

before(async () => {
  ({ countersign, NotPaid } = await compile()('countersign-fetch.js'));
  parts = await startParts();
  const port = await freePort();
  const resource = (at) => `http://127.0.0.1:${port}/${at}/mcp`;
  issuer = await startIssuer({ resources: ['weather', 'granted'].map(resource) });
  gateway = await startBefore(parts, {
    issuers: [issuer.url],
    consent: { approve_url: `${PAGE}{approval}` },
    rails: {
      x402: { pay_to: MERCHANT, facilitator: { sandbox: parts.facilitator } },
      l402: { source: { sandbox: parts.lightning } },
      pow: { capacity_per_s: 1000, daily_quota: 1000, min_difficulty: 2000, max_difficulty: 8000 },
    },
    servers: {
      // For anybody.
      open: {
        tools: {
          status: { price: 'free', ...anonymous },
          get_forecast: { price: '3 sat', ...anonymous },
          get_report: { price: ['work', '3 sat'], ...anonymous },
          get_slow: { price: '3 sat', uses: 3, ...anonymous },
          get_broken: { price: '1000 sat', ...anonymous },
        },
      },
      // For whoever has a token.
      weather: {
        tools: {
          get_forecast: { price: '0.01 USDC', consent: 'none' },
          get_report: { price: '3 sat', consent: 'none' },
        },
      },
      // For whoever has a token and a grant.
      granted: { tools: { get_forecast: { price: '3 sat' } } },
    },
  }, { port });
  token = await issuer.userToken('alice', resource('weather'));
});
after(async () => {
  await gateway?.stop();
  await issuer?.stop();
  await parts?.stop();
});

let cities = 0;
/** Arguments that no other call has. */
const anew = () => ({ city: `Bergen ${++cities}` });
const at = (server, on = gateway) => `${on.url}/${server}/mcp`;
const text = (result) => (result?.content ?? []).map((item) => item.text).join('\n');

/** What `act` did: runs of a tool, sat that came in, transfers that settled. */
async function effect(tool, act) {
  const state = async () => [await parts.ran(tool), await parts.earnedMsat(), await parts.settled()];
  const earlier = await state();
  const value = await act();
  const [ran, msat, settled] = (await state()).map((now, index) => now - earlier[index]);
  return { value, ran, sat: msat / 1000, settled };
}

function directory(t) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-clients-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Passes everything on to the gateway, but cuts off the answers for which `cuts(body)` is true. */
async function startCutting(t, cuts) {
  const port = await freePort();
  const seen = [];
  const server = http.createServer(async (request, response) => {
    let body = '';
    for await (const part of request.setEncoding('utf8')) body += part;
    seen.push({ headers: request.headers, body });
    const options = { method: request.method, headers: { ...request.headers, host: `127.0.0.1:${gateway.port}` } };
    const onward = http.request(`${gateway.url}${request.url}`, options, (answer) => {
      if (cuts(seen.at(-1))) return answer.resume().on('end', () => response.destroy());
      response.writeHead(answer.statusCode, answer.headers);
      return answer.pipe(response);
    });
    onward.end(body);
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${port}`, seen };
}

const hasPayment = ({ headers, body }) =>
  /ai\.bolthub\/payment|x402\/payment/.test(body) || /L402/.test(headers.authorization ?? '');

for (const client of Object.keys(CLIENTS)) {
  describe(client, () => {
    const call = (server, tool, args, how) => callWith(client, at(server), tool, args, how);

    test('a free call runs', async () => {
      const { result, output } = await call('open', 'status', {});
      assert.match(text(result), /"ok":true/, output);
    });

    test('a call for work is worked for, without a wallet', async () => {
      const { value, ran, sat } = await effect('get_report', () => call('open', 'get_report', anew()));
      assert.match(text(value.result), /sandbox report/, value.output);
      assert.equal(receiptOf(value.result).rail, 'pow');
      assert.deepEqual([ran, sat], [1, 0]);
    });

    test('a call is paid for over Lightning', async () => {
      const how = { lightning: parts.lightning };
      const { value, ran, sat } = await effect('get_forecast', () => call('open', 'get_forecast', anew(), how));
      assert.match(text(value.result), /temperature/, value.output);
      assert.equal(receiptOf(value.result).rail, 'l402');
      assert.deepEqual([ran, sat], [1, 3]);
      assert.match(value.said, /^paid 3/m);
    });

    test('a call with a token is paid for, over Lightning and in USDC', async () => {
      const lightning = await effect('get_report', () =>
        call('weather', 'get_report', anew(), { token, lightning: parts.lightning }));
      assert.match(text(lightning.value.result), /sandbox report/, lightning.value.output);
      assert.deepEqual([lightning.ran, lightning.sat], [1, 3]);
      const usdc = await effect('get_forecast', () =>
        call('weather', 'get_forecast', anew(), { token, key: KEY }));
      assert.match(text(usdc.value.result), /temperature/, usdc.value.output);
      assert.deepEqual([usdc.ran, usdc.settled], [1, 1]);
    });

    test('a price above the cap is refused before anything is paid', async () => {
      const { value, ran, sat } = await effect('get_broken', () =>
        call('open', 'get_broken', {}, { lightning: parts.lightning }));
      assert.deepEqual([ran, sat], [0, 0]);
      assert.match(value.output, /above the cap/);
      assert.doesNotMatch(text(value.result), /sandbox failure/);
    });

    test('who has not consented gets the page on which to', async () => {
      const mine = await issuer.userToken('alice', at('granted'));
      const { value, ran, sat } = await effect('get_forecast', () =>
        call('granted', 'get_forecast', anew(), { token: mine, lightning: parts.lightning }));
      assert.deepEqual([ran, sat], [0, 0]);
      assert.ok(value.output.includes(`${PAGE}appr_`), value.output);
      assert.match(JSON.stringify(value.result), /CNS-001/, value.output);
    });

    test('a second challenge ends the call', async () => {
      await parts.fail('settle_fails');
      const { value, ran, settled } = await effect('get_forecast', () =>
        call('weather', 'get_forecast', anew(), { token, key: KEY }));
      assert.deepEqual([ran, settled], [0, 0]);
      assert.match(value.output, /PAY-016/);
    });

    test('a macaroon for three calls is bought once, and kept over restarts', async (t) => {
      const how = { lightning: parts.lightning, state: directory(t) };
      const { value, ran, sat } = await effect('get_slow', async () => {
        const outputs = [];
        for (const ms of [1, 2, 3]) outputs.push(await call('open', 'get_slow', { ms }, how));
        return outputs;
      });
      value.forEach(({ result, output }) => assert.match(text(result), /slept/, output));
      assert.deepEqual([ran, sat], [3, 3]);
      const log = path.join(how.state, 'spend.jsonl');
      assert.equal(statSync(log).mode & 0o777, 0o600);
      const lines = readFileSync(log, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));
      assert.deepEqual([...new Set(lines.map(({ id }) => id))].length, 1);
      assert.deepEqual(
        [lines[0].outcome, lines[0].tool, lines[0].minor, lines.at(-1).outcome],
        ['paying', 'get_slow', '3000', 'answered'],
      );
    });

    test('a call whose answer is lost is paid once, however often it is made', async (t) => {
      let lost = 0;
      const proxy = await startCutting(t, (seen) => hasPayment(seen) && lost++ === 0);
      const [args, how] = [anew(), { lightning: parts.lightning, state: directory(t) }];
      const { value, ran, sat } = await effect('get_forecast', async () => {
        const tries = [];
        for (let n = 0; n < 2 && !/temperature/.test(text(tries.at(-1)?.result)); n++) {
          tries.push(await callWith(client, at('open', proxy), 'get_forecast', args, how));
        }
        return tries;
      });
      assert.match(text(value.at(-1).result), /temperature/, value.at(-1).output);
      assert.deepEqual([ran, sat, lost > 1], [1, 3, true]);
    });
  });
}

/** A wallet for the TypeScript client: {options, paid, said, pages}. */
function purse(options = {}) {
  const [paid, said, pages] = [[], [], []];
  const payInvoice = async (invoice) => {
    paid.push(invoice);
    const answer = await fetch(`${parts.lightning}/pay`, { method: 'POST', body: JSON.stringify({ invoice }) });
    if (!answer.ok) throw new NotPaid(await answer.text());
    return (await answer.json()).preimage;
  };
  const say = (line) => said.push(line);
  const perCall = { BTC: 20_000n, USDC: 100_000n };
  const fetch_ = countersign({
    payInvoice, account: privateKeyToAccount(KEY), perCall, say, openPage: (page) => pages.push(page), ...options,
  });
  const call = async (server, tool, args, how) => {
    const { url, init } = toolCall(gateway, server, tool, args, how);
    return answerOf(await fetch_(url, init));
  };
  return { fetch: fetch_, call, paid, said, pages };
}

/** The same for the Python client. */
const pythonCalls = (server, tool, calls, job = {}) => pythonJson('countersign_calls.py', {
  job: {
    url: at(server), tool, calls, lightning: parts.lightning, key: KEY,
    ...job, options: { per_call: { BTC: 20_000, USDC: 100_000 }, ...job.options },
  },
});

describe('TypeScript, under other clients', () => {
  test('plain HTTP is paid for in headers, each rail', async () => {
    const { call, paid } = purse();
    for (const [server, tool, headers, rail] of [
      ['open', 'get_forecast', {}, 'l402'],
      ['open', 'get_report', {}, 'pow'],
      ['weather', 'get_forecast', bearer(token), 'x402'],
      ['weather', 'get_report', bearer(token), 'l402'],
    ]) {
      const answer = await call(server, tool, anew(), { headers });
      assert.equal(receiptOf(answer.result)?.rail, rail, answer.text);
    }
    assert.equal(paid.length, 2);
  });

  for (const [era, open] of [['legacy', legacyClient], ['modern', modernClient]]) {
    test(`the ${era} MCP SDK hears progress while a paid call runs, and of one more as well`, async () => {
      const { fetch: paying, said } = purse();
      const client = await open(at('open'), { fetch: paying });
      const steps = [];
      const report = () => client.callTool(
        { name: 'get_report', arguments: anew() },
        ...(era === 'legacy' ? [undefined] : []),
        { onprogress: ({ progress }) => steps.push(progress) },
      );
      assert.match(text(await report()), /sandbox report/);
      assert.match(text(await report()), /sandbox report/);
      assert.deepEqual(steps, [1, 2, 3, 1, 2, 3]);
      assert.equal(said.filter((line) => /^paid .* over pow$/.test(line)).length, 2);
      await client.close();
    });
  }

  test('numbers that JavaScript cannot hold pass unchanged', async () => {
    const { fetch: paying } = purse();
    const { url, init } = toolCall(gateway, 'open', 'get_forecast', { city: 'Rana', n: 1 }, { headers: MCP_ACCEPT });
    const body = init.body.replace('"n":1', '"n":12345678901234567890123');
    const answer = await answerOf(await paying(url, { ...init, body }));
    assert.equal(receiptOf(answer.result)?.rail, 'l402', answer.text);
  });

  test('an hour has its ceiling, over restarts; a host that is not listed is not paid', async (t) => {
    const options = { perHour: { BTC: 5_000n }, state: directory(t) };
    const first = purse(options);
    assert.ok((await first.call('open', 'get_forecast', anew())).result);
    assert.equal((await first.call('open', 'get_forecast', anew())).status, 402);
    const again = purse(options);
    assert.equal((await again.call('open', 'get_forecast', anew())).status, 402);
    assert.match(again.said.at(-1), /too much was spent/);
    const elsewhere = purse({ hosts: ['tools.example.com'] });
    assert.equal((await elsewhere.call('open', 'get_forecast', anew())).status, 402);
    assert.match(elsewhere.said.at(-1), /not one that may be paid/);
    assert.deepEqual([first.paid.length, again.paid.length, elsewhere.paid.length], [1, 0, 0]);
  });

  test('the page is opened, and the call runs once somebody has approved', async () => {
    const mine = await issuer.userToken('bob', at('granted'));
    const { call, pages, paid } = purse({ approvalWaitMs: 20_000 });
    const calling = call('granted', 'get_forecast', anew(), { headers: bearer(mine) });
    const [page] = await until('the page is opened', () => pages.length > 0 && pages);
    await gateway.cli('approvals', 'approve', page.slice(PAGE.length));
    const answer = await calling;
    assert.equal(receiptOf(answer.result)?.rail, 'l402', answer.text);
    assert.equal(paid.length, 1);
  });

  test('a wallet that pays nothing costs nothing', async () => {
    const { call, said } = purse({ payInvoice: async () => { throw new NotPaid('no'); } });
    const answer = await call('open', 'get_forecast', anew());
    assert.deepEqual([answer.status, answer.code], [402, 'PAY-001']);
    assert.match(said.at(-1), /the wallet did not pay/);
  });

  test('a wallet that may have paid is asked for the same invoice again', async () => {
    const asked = [];
    let preimage;
    const { call } = purse({
      payInvoice: async (invoice) => {
        asked.push(invoice);
        // What is paid is not paid again: a wallet gives the preimage that it has.
        if (asked.length > 1) return preimage;
        preimage = await parts.pay(invoice);
        throw new Error('the wallet is gone');
      },
    });
    const args = anew();
    const { ran, sat } = await effect('get_forecast', async () => {
      await assert.rejects(call('open', 'get_forecast', args), /the wallet is gone/);
      assert.ok((await call('open', 'get_forecast', args)).result);
    });
    assert.deepEqual([asked.length, new Set(asked).size, ran, sat], [2, 1, 1, 3]);
  });

  test('what is no tool call passes untouched', async () => {
    const seen = [];
    const { fetch: paying } = purse({ fetch: async (...given) => (seen.push(given), new Response('{}')) });
    await paying('http://127.0.0.1/x', { method: 'POST', body: 'not json' });
    await paying('http://127.0.0.1/x');
    assert.equal(await seen[0][0].text(), 'not json');
    assert.equal(seen[1][0], 'http://127.0.0.1/x');
  });
});

for (const is_async of [false, true]) {
  describe(`Python, ${is_async ? 'with' : 'without'} await`, () => {
    const calls = (server, tool, args, job) => pythonCalls(server, tool, args, { is_async, ...job });
    const railOf = ({ text: answer }) => receiptOf(JSON.parse(answer).result)?.rail;

    test('plain HTTP is paid for in headers, each rail', async () => {
      for (const [server, tool, job, rail] of [
        ['open', 'get_forecast', {}, 'l402'],
        ['open', 'get_report', {}, 'pow'],
        ['weather', 'get_forecast', { token }, 'x402'],
        ['weather', 'get_report', { token }, 'l402'],
      ]) {
        const { answers, said } = await calls(server, tool, [anew()], job);
        assert.equal(railOf(answers[0]), rail, JSON.stringify([answers, said]));
      }
    });

    test('the same call made twice is two payments', async () => {
      const args = { city: 'Rana', n: 1e21, x: 0.1 };
      const { answers, paid } = await calls('open', 'get_forecast', [args, args], MCP_ACCEPT);
      assert.deepEqual(answers.map(railOf), ['l402', 'l402'], JSON.stringify(answers));
      assert.equal(new Set(paid).size, 2);
    });

    test('an hour has its ceiling, over restarts; a host that is not listed is not paid', async (t) => {
      const options = { per_hour: { BTC: 5_000 }, state: directory(t) };
      const first = await calls('open', 'get_forecast', [anew(), anew()], { options });
      assert.deepEqual(first.answers.map(({ status }) => status), [200, 402]);
      const again = await calls('open', 'get_forecast', [anew()], { options });
      assert.deepEqual([again.answers[0].status, again.paid.length], [402, 0]);
      assert.match(again.said.at(-1), /too much was spent/);
      const elsewhere = await calls('open', 'get_forecast', [anew()], { options: { hosts: ['tools.example.com'] } });
      assert.deepEqual([elsewhere.answers[0].status, elsewhere.paid.length], [402, 0]);
    });

    test('the page is opened, and the call runs once somebody has approved', async () => {
      const mine = await issuer.userToken(`carl${is_async}`, at('granted'));
      const options = { approval_wait: 30 };
      const calling = calls('granted', 'get_forecast', [anew()], { token: mine, options });
      const pending = await until('it is asked', async () => {
        const { items } = await gateway.cli('approvals', 'list');
        return items?.find((item) => JSON.stringify(item).includes(`carl${is_async}`));
      });
      await gateway.cli('approvals', 'approve', pending.approval ?? pending.id);
      const { answers, pages } = await calling;
      assert.equal(railOf(answers[0]), 'l402', JSON.stringify(answers));
      assert.ok(pages[0].startsWith(PAGE) && pages.length === 1);
    });
  });
}
