// Servers that take a paid call and answer with nonsense, too much, or nothing: the call is in
// doubt, says so, is never run a second time, and its money waits for a person's word.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';

import { freePort } from './lib/process.mjs';
import {
  admin, buy, callTool, calls, l402, receiptOf, startBefore, startParts, unbalanced, verifyLog,
} from './lib/rig.mjs';

const RESULT_MAX = 64 << 10;
const JSON_TYPE = { 'content-type': 'application/json' };
const SSE_TYPE = { 'content-type': 'text/event-stream' };

/** What the server does with the request of a call, by name. */
const WAYS = {
  'no JSON': (response) => response.writeHead(200, JSON_TYPE).end('<html>sorry</html>'),
  'half of its JSON': (response) => response.writeHead(200, JSON_TYPE).end('{"jsonrpc":"2.0","id":'),
  'nothing': (response) => response.writeHead(200, JSON_TYPE).end(),
  'no result': (response, id) =>
    response.writeHead(200, JSON_TYPE).end(JSON.stringify({ jsonrpc: '2.0', id })),
  'a result twice named': (response, id) =>
    response.writeHead(200, JSON_TYPE).end(
      `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":{"content":[]},"result":{"content":[1]}}`),
  'a failure of its own': (response) => response.writeHead(500).end('boom'),
  'half an answer': (response) => {
    response.writeHead(200, { ...JSON_TYPE, 'content-length': '1000' });
    response.write('{"jsonrpc":"2.0",');
    setTimeout(() => response.destroy(), 50);
  },
  'a stream that ends early': (response) => {
    response.writeHead(200, SSE_TYPE);
    response.end('event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n');
  },
  'a closed connection': (response) => response.destroy(),
};
const LARGE = {
  'a body': (response, id) => response.writeHead(200, JSON_TYPE).end(result(id, large())),
  'an event': (response, id) => response.writeHead(200, SSE_TYPE).end(`data: ${result(id, large())}\n\n`),
};
const fine = (response, id) => response.writeHead(200, JSON_TYPE).end(result(id, { content: [] }));
const result = (id, said) => JSON.stringify({ jsonrpc: '2.0', id, result: said });
const large = () => ({ content: [{ type: 'text', text: 'x'.repeat(RESULT_MAX) }] });

let parts, server, gateway, way;
const runs = [];

before(async () => {
  parts = await startParts();
  const port = await freePort();
  server = createServer(async (request, response) => {
    let body = '';
    for await (const part of request.setEncoding('utf8')) body += part;
    const message = JSON.parse(body);
    if (message.method !== 'tools/call') return response.writeHead(202).end();
    runs.push(message.params.arguments.city);
    return way(response, message.id);
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  gateway = await startBefore(parts, {
    servers: {
      own: {
        upstream: `http://127.0.0.1:${port}/mcp`,
        tools: {
          get_thing: { price: '10 sat', identity: 'anonymous' },
          get_free: { price: 'free', identity: 'anonymous' },
        },
      },
    },
    limits: { result: `${RESULT_MAX >> 10} KiB` },
  });
});
after(async () => {
  await gateway?.stop();
  server?.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await parts?.stop();
});

const timesRun = (city) => runs.filter((it) => it === city).length;
const stateOf = async (call) => (await admin(gateway, `/v1/calls/${call}`)).body.call.state;

/** A paid call whose server answers so: in doubt, under this code. */
async function inDoubt(name, code) {
  const headers = l402(await buy(parts, gateway, 'own', 'get_thing', { city: name }));
  const ask = () => callTool(gateway, 'own', 'get_thing', { city: name }, { headers });
  const answer = await ask();
  assert.deepEqual([answer.code, answer.problem?.charged], [code, 'yes'], answer.text);
  assert.equal(answer.problem.next.actor, 'operator');
  assert.doesNotMatch(answer.text, /sorry|boom/, 'what it said is not passed on');
  const call = answer.problem.call_id;
  assert.equal(await stateOf(call), 'in_doubt');
  const again = await ask();
  assert.deepEqual([again.code, again.problem?.charged], ['UPS-002', 'yes'], again.text);
  assert.equal(timesRun(name), 1, 'it ran again');
  return { call, ask };
}

describe('a paid call whose server answers with', () => {
  for (const [name, how] of Object.entries(WAYS)) {
    test(`${name}: in doubt, never run again, and its use goes back on the operator's word`, async () => {
      way = how;
      const { call, ask } = await inDoubt(name, 'UPS-003');
      const { status, body } = await admin(gateway, `/v1/ledger/in-doubt/${call}`, {
        method: 'POST', body: { rule: 'refund' },
      });
      assert.equal(status, 200, JSON.stringify(body));
      assert.equal(await stateOf(call), 'released');
      way = fine;
      const done = await ask();
      assert.equal(receiptOf(done.result)?.state, 'captured', done.text);
      assert.equal(timesRun(name), 2);
    });
  }

  for (const [name, how] of Object.entries(LARGE)) {
    test(`${name} larger than the limit: in doubt, and kept on the operator's word`, async () => {
      way = how;
      const { call } = await inDoubt(`${name}, large`, 'UPS-004');
      await gateway.cli('ledger', 'resolve', call, 'capture');
      assert.equal(await stateOf(call), 'captured');
    });
  }

  test('what it should say afterwards: the next call is served', async () => {
    way = fine;
    const headers = l402(await buy(parts, gateway, 'own', 'get_thing', { city: 'fine' }));
    const done = await callTool(gateway, 'own', 'get_thing', { city: 'fine' }, { headers });
    assert.equal(receiptOf(done.result)?.state, 'captured', done.text);
  });

  test('nonsense to a free call: nothing was charged, and it says so', async () => {
    way = WAYS['no JSON'];
    const answer = await callTool(gateway, 'own', 'get_free', { city: 'free' });
    assert.deepEqual([answer.code, answer.problem?.charged], ['UPS-003', 'no'], answer.text);
  });

  test('any of these: the ledger balances, and the log says all of it', async () => {
    assert.deepEqual(await unbalanced(gateway), []);
    assert.equal((await verifyLog(gateway)).code, 0);
    const states = (await calls(gateway)).map(({ state }) => state);
    assert.ok(!states.includes('in_doubt'), 'a free call leaves nothing to decide');
  });
});
