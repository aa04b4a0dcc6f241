// Requests for approval that come to people: a signed webhook, and a signed answer back, after
// OpenID CIBA. The device is a plain HTTP server with a key of its own (jose).

import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import { appendFileSync, cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import * as jose from 'jose';

import { Parts, callOf, issuerConfig, post, problemOf, textOf } from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { freePort, until } from './lib/process.mjs';
import { startOwnServer } from './lib/tap.mjs';
import { bearer } from './lib/wire.mjs';

const SECRET = 'a-secret-of-at-least-24-bytes';
const PAGE = 'https://approve.example/approvals/{approval}';
const TWO_PEOPLE = `
@id("delete.two") @reason("TWO_PEOPLE") @obligation("m_of_n") @params("{\\"m\\":2}")
forbid (principal, action == Action::"delete", resource)
unless { context.fulfilled.contains("m_of_n") };
`;

/** What a person's device would run: it keeps what it is told; the first attempt of each fails. */
async function startDevice() {
  const [messages, tries] = [[], new Map()];
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (part) => (body += part));
    request.on('end', () => {
      const id = request.headers['webhook-id'];
      tries.set(id, (tries.get(id) ?? 0) + 1);
      if (tries.get(id) === 1) return response.writeHead(503).end();
      messages.push({ headers: request.headers, body, data: JSON.parse(body).data });
      response.writeHead(204).end();
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${server.address().port}/`;
  return {
    url,
    messages,
    tries,
    about: (approval) =>
      until('the device is told', async () =>
        messages.find(({ data }) => data.auth_req_id === approval), { timeout_ms: 20_000 }),
    stop: () => new Promise((resolve) => server.close(resolve)),
  };
}

const parts = new Parts();
let device, other, issuer, gateway, url, answerUrl, bundle;

before(() =>
  parts.starting(async () => {
    const port = await freePort();
    url = `http://127.0.0.1:${port}/own/mcp`;
    answerUrl = `http://127.0.0.1:${port}/consent/answer`;
    bundle = mkdtempSync(path.join(os.tmpdir(), 'countersign-bundle-'));
    cpSync(fileURLToPath(new URL('../crates/gateway/policy/', import.meta.url)), bundle, { recursive: true });
    appendFileSync(path.join(bundle, 'policies.cedar'), TWO_PEOPLE);
    device = await parts.keep('device', startDevice());
    other = await parts.keep('other', startDevice());
    const own = await parts.keep('own', startOwnServer({
      answer: ({ params }) =>
        JSON.stringify({ resultType: 'complete', content: [{ type: 'text', text: `ran ${params.name}` }] }),
    }));
    issuer = await parts.keep('issuer', startIssuer({ resources: [url] }));
    const hook = (of) => ({ url: of.url, secret: 'env:HOOK_SECRET', allow_private_network: true });
    gateway = await parts.keep('gateway', startGateway({
      port,
      env: { HOOK_SECRET: SECRET },
      config: {
        listen: `127.0.0.1:${port}`,
        issuers: [issuerConfig(issuer)],
        policy: { dir: bundle },
        webhooks: { phones: hook(device), zoe: hook(other) },
        consent: {
          approve_url: PAGE,
          push: [
            { webhook: 'phones', tenant: 'org_acme' },
            { webhook: 'zoe', delegator: `${issuer.url}|zoe` },
          ],
        },
        servers: {
          own: {
            upstream: own.url,
            tools: {
              get_thing: { price: 'free', consent: 'required' },
              delete_thing: { price: 'free' },
            },
          },
        },
      },
    }));
  }),
);
after(async () => {
  await parts.stop();
  if (bundle) rmSync(bundle, { recursive: true });
});

const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;

/** A key of a person's own, registered for them. */
async function keyOf(subject) {
  const { privateKey, publicKey } = await jose.generateKeyPair('ES256', { extractable: true });
  const jwk = await jose.exportJWK(publicKey);
  const kid = await jose.calculateJwkThumbprint(jwk);
  const file = path.join(gateway.dir, `${kid}.jwk`);
  writeFileSync(file, JSON.stringify(jwk));
  await gateway.cli(
    'people', 'key', 'add', '--tenant', 'org_acme', '--issuer', issuer.url, '--subject', subject,
    '--jwk', file,
  );
  const sign = (payload, header = {}) =>
    new jose.SignJWT(payload)
      .setProtectedHeader({ alg: 'ES256', kid, typ: 'consent-answer+jwt', ...header })
      .sign(privateKey);
  const says = (data, answer, changes) => ({
    iss: `urn:ietf:params:oauth:jwk-thumbprint:sha-256:${kid}`,
    aud: data.answer_to,
    iat: inSeconds(0),
    exp: inSeconds(300),
    jti: randomUUID(),
    auth_req_id: data.auth_req_id,
    content: data.content,
    answer,
    ...changes,
  });
  return {
    kid,
    sign: async (data, answer, changes, header) => sign(says(data, answer, changes), header),
  };
}

/** Sends an answer: {status, code, body}. */
async function send(text, init = {}) {
  const response = await fetch(answerUrl, {
    method: 'POST', headers: { 'content-type': 'application/jose' }, body: text, ...init,
  });
  const body = await response.json();
  return { status: response.status, code: body.code, body };
}

/** A call of `name`'s agent, and what their device is told of it. */
async function asked(name, tool = 'get_thing', args = { city: 'Oslo' }) {
  const token = await issuer.userToken(name, url);
  const call = () => post(url, callOf(tool, args), bearer(token));
  const problem = problemOf(await call());
  return { call, problem, told: await device.about(problem.facts.approval) };
}

test('the message is signed, tried again, and says what is asked and nothing secret', async () => {
  const { problem, told, call } = await asked('ann');
  const { 'webhook-id': id, 'webhook-timestamp': at, 'webhook-signature': signature } = told.headers;
  const expected = createHmac('sha256', SECRET).update(`${id}.${at}.${told.body}`);
  assert.equal(signature, `v1,${expected.digest('base64')}`);
  assert.ok(device.tries.get(id) >= 2, 'after a failure');
  assert.equal(JSON.parse(told.body).type, 'approval.requested');
  const { data } = told;
  assert.match(data.binding_message, /^web-agent asks to call own\/get_thing for free, until 20/);
  assert.deepEqual(
    [data.tool, data.price, data.payees, data.needed, data.link, data.answer_to],
    ['own/get_thing', 'free', [], 1, PAGE.replace('{approval}', data.auth_req_id), answerUrl],
  );
  assert.ok(data.expires_in > 800 && data.expires_in <= 900);
  for (const secret of ['Oslo', 'ann', 'Bearer', 'eyJ']) assert.ok(!told.body.includes(secret), secret);
  assert.equal(data.auth_req_id, problem.facts.approval);
  await call();
  assert.equal(device.messages.filter((m) => m.data.auth_req_id === data.auth_req_id).length, 1, 'told once');
  assert.equal(other.messages.length, 0, 'another person\'s webhook is told nothing');
});

test('yes from the device: the same call runs, once', async () => {
  const { call, told } = await asked('bob');
  const key = await keyOf('bob');
  const answer = await key.sign(told.data, 'approve');
  const { status, body } = await send(answer);
  assert.deepEqual([status, body], [200, { auth_req_id: told.data.auth_req_id, status: 'approved' }]);
  assert.notEqual((await send(answer)).status, 200, 'once');
  assert.equal(textOf(await call()), 'ran get_thing');
  const again = problemOf(await call());
  assert.equal(again.code, 'CNS-001', 'this once, and no grant');
  assert.deepEqual((await gateway.cli('grant', 'list')).items, []);
  const shown = await gateway.cli('approvals', 'show', told.data.auth_req_id);
  assert.equal(shown.approver, `${issuer.url}|bob`);
});

test('no from the device, with a reason that reaches the agent', async () => {
  const { call, told } = await asked('cyd');
  const key = await keyOf('cyd');
  const { body } = await send(await key.sign(told.data, 'deny', { reason: 'not this month' }));
  assert.equal(body.status, 'denied');
  const refused = await call();
  assert.equal(problemOf(refused).code, 'CNS-009');
  assert.match(textOf(refused), /not this month/);
});

test('an answer is of one person, one request, one content, one time and one place', async () => {
  const { call, told } = await asked('dee');
  const elsewhere = (await asked('dee', 'get_thing', { city: 'Bern' })).told.data;
  const [key, mallory, gone] = [await keyOf('dee'), await keyOf('mallory'), await keyOf('dee')];
  await gateway.cli('people', 'key', 'revoke', gone.kid);
  const { data } = told;
  const yes = (changes, header) => key.sign(data, 'approve', changes, header);
  const good = await yes();
  const [head, body, tail] = good.split('.');
  const cases = {
    'a revoked key': await gone.sign(data, 'approve'),
    'the content of another request': await yes({ content: elsewhere.content }),
    'a made-up content': await yes({ content: '00'.repeat(32) }),
    'no content': await yes({ content: undefined }),
    'another place': await yes({ aud: gateway.url }),
    'too late': await yes({ iat: inSeconds(-400), exp: inSeconds(-100) }),
    'too early': await yes({ iat: inSeconds(400), exp: inSeconds(500) }),
    'good for a year': await yes({ exp: inSeconds(365 * 24 * 3600) }),
    'no jti': await yes({ jti: undefined }),
    'an unknown answer': await yes({ answer: 'maybe' }),
    'a grant': await yes({ grant: { expires: '30d' } }),
    'a mandate\'s type': await yes({}, { typ: 'consent-grant+jwt' }),
    'a further header member': await yes({}, { cty: 'x' }),
    'a bit turned': `${head}.${body}.${tail.startsWith('A') ? 'B' : 'A'}${tail.slice(1)}`,
    'no signature': `${head}.${body}.`,
    'nonsense': 'x',
    'nothing': '',
  };
  for (const [name, text] of Object.entries(cases)) {
    const { status, code } = await send(text);
    assert.deepEqual([status, code], [403, 'CNS-016'], name);
  }
  const foreign = await send(await mallory.sign(data, 'approve'));
  assert.deepEqual([foreign.status, foreign.code], [404, 'ADM-002'], 'somebody else sees no request');
  assert.equal((await send(good, { headers: { 'content-type': 'application/json' } })).status, 415);
  assert.equal((await send('x'.repeat(20_000))).status, 413);
  assert.equal((await fetch(answerUrl)).status, 405, 'looking answers nothing');
  assert.equal(problemOf(await call()).code, 'CNS-001', 'nothing of that counted');
  assert.equal((await send(good)).status, 200);
  assert.equal(textOf(await call()), 'ran get_thing');
});

test('the agent\'s token, and the agent\'s own key, answer nothing', async () => {
  const { call, told } = await asked('eli');
  const token = await issuer.userToken('eli', url);
  assert.equal((await send(token)).code, 'CNS-016');
  const agent = await keyOf('web-agent');
  assert.equal((await send(await agent.sign(told.data, 'approve'))).status, 404);
  assert.equal(problemOf(await call()).code, 'CNS-001');
});

test('where several people must agree, the one for whom it is asked does not count', async () => {
  const { call, told } = await asked('fay', 'delete_thing');
  assert.equal(told.data.needed, 2);
  const key = await keyOf('fay');
  const { status, code } = await send(await key.sign(told.data, 'approve'));
  assert.deepEqual([status, code], [403, 'CNS-012']);
  assert.equal(problemOf(await call()).code, 'CNS-008');
});

test('what was answered on the page is not answered again', async () => {
  const { call, told } = await asked('gus');
  const key = await keyOf('gus');
  const answer = await key.sign(told.data, 'approve');
  await gateway.cli('approvals', 'deny', told.data.auth_req_id, '--reason', 'by hand');
  const { status, code } = await send(answer);
  assert.deepEqual([status, code], [409, 'ADM-003']);
  assert.equal(problemOf(await call()).code, 'CNS-009');
});

test('a message is durable: a crash before it is sent loses none', async () => {
  const token = await issuer.userToken('hal', url);
  const { approval } = problemOf(await post(url, callOf('get_thing', {}), bearer(token))).facts;
  await gateway.kill9();
  await gateway.restart();
  assert.equal((await device.about(approval)).data.auth_req_id, approval);
});

test('the log verifies, and names no person', async () => {
  const { code, stdout, stderr } = await gateway.cliRaw('audit', 'verify');
  assert.equal(code, 0, stdout + stderr);
  const tail = (await gateway.cliRaw('audit', 'tail', '--limit', '1000')).stdout;
  assert.ok(tail.includes('approval.approve') && tail.includes('approval.deny'));
  for (const name of ['not this month', issuer.url]) assert.ok(!tail.includes(name), name);
});
