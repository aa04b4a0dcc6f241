// A policy service beside the gateway's own policy, over OpenID AuthZEN 1.0: Cerbos, which narrows
// and cannot widen; and one that is silent, slow or lies, which is a no.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Parts, problemOf } from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { legacyClient } from './lib/mcpclients.mjs';
import { freePort, start, until } from './lib/process.mjs';
import { startOwnServer } from './lib/tap.mjs';

const cerbosBinary = createRequire(import.meta.url).resolve(
  '@cerbos/cerbos-linux-x64/cerbos-linux-x64',
);
const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-cerbos-'));
const parts = new Parts();
let own, cerbos, liar, honest, other;

// Reads are allowed while the session is clean and the price low; notes of others are nobody's.
const POLICY = `
apiVersion: api.cerbos.dev/v1
resourcePolicy:
  resource: tool
  version: default
  rules:
    - actions: ["*"]
      effect: EFFECT_ALLOW
      roles: ["*"]
      condition:
        match:
          all:
            of:
              - expr: request.resource.attr.tool != "get_other"
              - expr: request.resource.attr.context.price.micros <= 5000.0
`;

async function startCerbos() {
  writeFileSync(path.join(dir, 'tool.yaml'), POLICY);
  const [http, grpc] = [await freePort(), await freePort()];
  const args = ['server', ...[
    `server.httpListenAddr=127.0.0.1:${http}`,
    `server.grpcListenAddr=127.0.0.1:${grpc}`,
    'telemetry.disabled=true',
    'storage.driver=disk',
    `storage.disk.directory=${dir}`,
  ].map((one) => `--set=${one}`)];
  const part = start(cerbosBinary, args);
  const url = `http://127.0.0.1:${http}`;
  const metadata = `${url}/.well-known/authzen-configuration`;
  const found = await until('Cerbos answers', async () => (await fetch(metadata)).json(), { part });
  return { ...part, url: found.access_evaluation_endpoint };
}

/** A service that answers what it is told to, and keeps what it was asked. */
async function startLiar() {
  const asked = [];
  const liar = { asked, answer: undefined };
  const server = http.createServer((request, response) => {
    let text = '';
    request.setEncoding('utf8').on('data', (part) => (text += part));
    request.on('end', () => {
      asked.push({ headers: request.headers, body: JSON.parse(text) });
      liar.answer(response);
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  liar.url = `http://127.0.0.1:${server.address().port}/access/v1/evaluation`;
  liar.stop = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return liar;
}

const free = (intent) => ({ price: 'free', identity: 'anonymous', consent: 'none', intent });

const configuration = (pdp) => ({ port }) => ({
  listen: `127.0.0.1:${port}`,
  sandbox: true,
  policy: { pdp: { allow_private_network: true, ...pdp } },
  servers: {
    own: {
      upstream: own.url,
      relay: { anonymous: true },
      tools: {
        get_thing: free('read'),
        get_other: free('read'),
        get_secret: { ...free('read'), sensitivity: 3 },
      },
    },
  },
});

const TOOLS = ['get_thing', 'get_other', 'get_secret'];

before(() =>
  parts.starting(async () => {
    own = await parts.keep(
      'own',
      startOwnServer({
        tools: TOOLS.map((name) => ({ name, inputSchema: { type: 'object' } })),
        answer: () => JSON.stringify({ content: [{ type: 'text', text: 'ran' }] }),
      }),
    );
    cerbos = await parts.keep('cerbos', startCerbos());
    liar = await parts.keep('liar', startLiar());
    honest = await parts.keep(
      'honest',
      startGateway({ config: configuration({ url: cerbos.url, timeout: '5s' }) }),
    );
    other = await parts.keep(
      'other',
      startGateway({
        config: configuration({ url: liar.url, timeout: '400ms', bearer: 'env:E2E_PDP_TOKEN' }),
        env: { E2E_PDP_TOKEN: 'a-token-for-the-service' },
      }),
    );
  }),
);

after(async () => {
  await parts.stop();
  rmSync(dir, { recursive: true, force: true });
});

/** Calls a tool with the official SDK; the code of the refusal, or `ran`. */
async function outcome(gateway, tool = 'get_thing') {
  const client = await legacyClient(`${gateway.url}/own/mcp`);
  try {
    const answer = await client.callTool({ name: tool, arguments: {} });
    return answer.isError ? problemOf(answer).code : answer.content[0].text;
  } finally {
    await client.close();
  }
}

test('Cerbos narrows what the bundle lets pass, and cannot widen it', async () => {
  assert.equal(await outcome(honest), 'ran');
  assert.equal(await outcome(honest, 'get_other'), 'POL-006');
  // Cerbos would allow this one; the bundle does not.
  assert.equal(await outcome(honest, 'get_secret'), 'POL-001');
});

const says = (status, headers, body) => (response) => response.writeHead(status, headers).end(body);
const JSON_TYPE = { 'content-type': 'application/json' };
const YES = '{"decision":true}';
const yes = says(200, JSON_TYPE, YES);

test('one that decides alone widens too, and its silence is a no', async () => {
  const configure = (url) => startGateway({ config: configuration({ url, timeout: '400ms', sole: true }) });
  const sole = await parts.keep('sole', configure(cerbos.url));
  assert.equal(await outcome(sole), 'ran');
  assert.equal(await outcome(sole, 'get_other'), 'POL-006');
  // The bundle would not: it is not asked.
  assert.equal(await outcome(sole, 'get_secret'), 'ran');
  const { stdout } = await sole.cliRaw('audit', 'tail', '--limit', '100');
  const records = stdout.trim().split('\n').map((line) => JSON.parse(line));
  const decision = records.findLast(({ kind }) => kind === 'decision');
  assert.equal(decision.detail.pdp, 'permit');

  const alone = await parts.keep('alone', configure(liar.url));
  liar.answer = says(200, JSON_TYPE, YES);
  assert.equal(await outcome(alone, 'get_secret'), 'ran');
  const before = liar.asked.length;
  assert.equal(await outcome(alone), 'ran');
  assert.equal(liar.asked.length, before + 1, 'asked once a call');
  for (const [name, answer, code] of [
    ['no', says(200, JSON_TYPE, '{"decision":false}'), 'POL-006'],
    ['silence', () => {}, 'POL-007'],
    ['nothing', says(200, JSON_TYPE, '{}'), 'POL-007'],
    ['an error', says(503, JSON_TYPE, YES), 'POL-007'],
  ]) {
    liar.answer = answer;
    assert.equal(await outcome(alone), code, name);
  }
});

test('it is told who asks for what, and no argument', async () => {
  liar.answer = yes;
  assert.equal(await outcome(other), 'ran');
  const { headers, body } = liar.asked.at(-1);
  assert.equal(headers.authorization, 'Bearer a-token-for-the-service');
  assert.deepEqual([body.subject.type, body.action.name], ['agent', 'read']);
  assert.deepEqual([body.resource.type, body.resource.id], ['tool', 'own/get_thing']);
  assert.equal(headers['cache-control'], 'no-cache');
  assert.equal(body.resource.properties.tenant, 'anonymous');
  assert.deepEqual(body.resource.properties.context, body.context);
  assert.equal(body.context.evaluation, headers['x-request-id']);
  const { stdout } = await other.cliRaw('audit', 'tail', '--limit', '100');
  const records = stdout.trim().split('\n').map((line) => JSON.parse(line));
  const decision = records.findLast(({ kind }) => kind === 'decision');
  assert.equal(decision.decision, body.context.evaluation);
  assert.equal(decision.detail.pdp, 'permit');
});

test('what is no plain yes is a no', async () => {
  const elsewhere = { ...JSON_TYPE, location: cerbos.url };
  const lies = {
    'a word': says(200, JSON_TYPE, '{"decision":"true"}'),
    'a number': says(200, JSON_TYPE, '{"decision":1}'),
    'nothing': says(200, JSON_TYPE, '{}'),
    'twice': says(200, JSON_TYPE, '{"decision":false,"decision":true}'),
    'an error': says(500, JSON_TYPE, YES),
    'a page': says(200, { 'content-type': 'text/html' }, YES),
    'a redirect': says(307, elsewhere, YES),
    'another answer': says(200, { ...JSON_TYPE, 'x-request-id': 'another' }, YES),
    'a long answer': says(200, JSON_TYPE, `{"decision":true,"context":"${'x'.repeat(100_000)}"}`),
    'a torn answer': (response) => {
      response.writeHead(200, { ...JSON_TYPE, 'content-length': '17' }).write('{"dec');
      response.destroy();
    },
    'silence': () => {},
  };
  for (const [name, lie] of Object.entries(lies)) {
    liar.answer = lie;
    assert.equal(await outcome(other), 'POL-007', name);
    // A good answer in between: it is not left alone yet.
    liar.answer = yes;
    assert.equal(await outcome(other), 'ran', `after ${name}`);
  }
  liar.answer = says(200, JSON_TYPE, '{"decision":false}');
  assert.equal(await outcome(other), 'POL-006');
});

test('one that keeps failing is left alone for a while, and nothing runs meanwhile', async () => {
  liar.answer = says(500, JSON_TYPE, YES);
  for (let time = 0; time < 5; time++) assert.equal(await outcome(other), 'POL-007');
  const asked = liar.asked.length;
  liar.answer = yes;
  assert.equal(await outcome(other), 'POL-007');
  assert.equal(liar.asked.length, asked, 'it was asked');
  await sleep(2_200);
  assert.equal(await outcome(other), 'ran');
});

test('a service that is gone is a no', async () => {
  await cerbos.stop();
  assert.equal(await outcome(honest), 'POL-007');
});
