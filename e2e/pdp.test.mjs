// The gateway as a policy decision point of OpenID AuthZEN 1.0: the working group's todo scenario,
// its certification scenario, and what policy says of agents and tools.

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Parts } from './lib/gate.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { freePort } from './lib/process.mjs';
import { admin, callTool, startBefore, startParts } from './lib/rig.mjs';

const FIXTURE = new URL('../crates/gateway/tests/authzen/', import.meta.url);
const PROGRAM = { id: 'ops-program', secret: 'ops-program-secret' };
const MCP = 'application/json, text/event-stream';

const parts = new Parts();
let sandbox, issuer, gateway, at, mcp, bundle, token;

before(() =>
  parts.starting(async () => {
    const [port, consolePort] = [await freePort(), await freePort()];
    at = `http://127.0.0.1:${consolePort}/api`;
    mcp = `http://127.0.0.1:${port}/weather/mcp`;
    bundle = mkdtempSync(path.join(os.tmpdir(), 'countersign-bundle-'));
    cpSync(fileURLToPath(new URL('../crates/gateway/policy/', import.meta.url)), bundle, { recursive: true });
    for (const file of ['access.cedarschema', 'access.cedar', 'access.json']) {
      cpSync(fileURLToPath(new URL(file, FIXTURE)), path.join(bundle, file));
    }
    const client = { id: 'countersign-console', secret: 'console-secret-1' };
    sandbox = await parts.keep('sandbox', startParts());
    issuer = await parts.keep('issuer', startIssuer({
      resources: [mcp, at],
      machines: [PROGRAM],
      claims: ({ subject }) => ({
        org_id: 'default', roles: subject === PROGRAM.id ? ['auditor'] : [],
      }),
      consoles: [{ ...client, redirectUri: `http://127.0.0.1:${consolePort}/sign-in/callback` }],
    }));
    gateway = await parts.keep('gateway', startBefore(sandbox, {
      issuers: [issuer.url],
      servers: {
        weather: {
          tools: {
            get_forecast: { price: '0.01 USDC' },
            get_report: { price: 'free', consent: 'none' },
            delete_report: { price: '0.02 USDC', consent: 'none' },
          },
        },
      },
      budgets: [{ name: 'bot', limit: '0.015 USD', window: '24h', scope: { agent: 'poor' } }],
      policy: { dir: bundle },
      console: {
        listen: `127.0.0.1:${consolePort}`,
        api_clients: [PROGRAM.id],
        sign_in: {
          issuer: issuer.url,
          client_id: client.id,
          client_secret: 'env:CONSOLE_SECRET',
          tenant_claim: 'org_id',
          allow_private_network: true,
        },
      },
    }, { port, env: { CONSOLE_SECRET: client.secret } }));
    token = await issuer.clientCredentials(at, 'mcp:call', PROGRAM);
  }),
);
after(async () => {
  await parts.stop();
  if (bundle) rmSync(bundle, { recursive: true });
});

async function ask(where, body, { headers = {}, raw } = {}) {
  const response = await fetch(`${at}/access/v1/${where}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...headers },
    body: raw ?? JSON.stringify(body),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: text && JSON.parse(text) };
}
async function decided(body) {
  const { status, body: answer } = await ask('evaluation', body);
  assert.equal(status, 200, JSON.stringify(answer));
  return answer;
}

const entity = (type, id, properties) => ({ type, id, ...(properties && { properties }) });
const record = (id, status) => entity('record', id, status && { status });
const alice = entity('user', 'alice');
const bob = entity('user', 'bob');
const admin_ = entity('user', 'bob', { role: 'admin' });
const does = (name, properties) => ({ name, ...(properties && { properties }) });
const READ = { subject: alice, action: does('read'), resource: record('record-1') };

describe('the todo scenario', () => {
  test('is decided as the working group published it', async () => {
    const todo = JSON.parse(readFileSync(new URL('todo.json', FIXTURE), 'utf8'));
    assert.deepEqual([todo.evaluation.length, todo.evaluations.length], [40, 3]);
    for (const { request, expected } of todo.evaluation) {
      const { decision, context } = await decided(request);
      assert.equal(decision, expected, `${JSON.stringify(request)} ${JSON.stringify(context)}`);
    }
    for (const { request, expected } of todo.evaluations) {
      const { body } = await ask('evaluations', request);
      const decisions = body.evaluations.map(({ decision }) => ({ decision }));
      assert.deepEqual(decisions, expected, JSON.stringify(request));
    }
  });
});

describe('the certification scenario', () => {
  test('basic: the eight decisions, and members that nobody knows', async () => {
    for (const [subject, action, resource, expected] of [
      [alice, does('read'), record('record-1'), true],
      [alice, does('write'), record('record-1'), true],
      [bob, does('read'), record('record-1'), true],
      [bob, does('write'), record('record-1'), false],
      [alice, does('write'), record('record-2', 'archived'), false],
      [admin_, does('write'), record('record-2', 'archived'), true],
      [alice, does('delete', { soft: true }), record('record-1'), true],
      [alice, does('delete', { soft: false }), record('record-1'), false],
    ]) {
      const { decision, context } = await decided({ subject, action, resource });
      assert.equal(decision, expected, JSON.stringify({ subject, action, resource, context }));
    }
    for (const more of [
      { context: { time: '2025-06-27T18:03-07:00', ip: '192.168.1.1' } },
      { foo: 'bar', futureField: { nested: true } },
      { subject: entity('user', 'alice', { department: 'Sales', role: 'manager' }),
        action: does('read', { method: 'GET' }),
        resource: entity('record', 'record-1', { status: 'active', owner: 'bob' }) },
    ]) {
      assert.equal((await decided({ ...READ, ...more })).decision, true, JSON.stringify(more));
    }
  });

  test('basic: what is no request is 400, whatever is wrong with it', async () => {
    const without = (name) => ({ ...READ, [name]: undefined });
    for (const body of [
      without('subject'), without('action'), without('resource'),
      { ...READ, subject: { id: 'alice' } }, { ...READ, subject: { type: 'user' } },
      { ...READ, action: {} }, { ...READ, resource: { id: 'record-1' } },
      { ...READ, resource: { type: 'record' } }, { ...READ, subject: 'alice' },
      { ...READ, action: { name: 123 } }, { ...READ, context: 'x' }, [],
    ]) {
      const { status, body: problem, headers } = await ask('evaluation', body);
      assert.deepEqual([status, problem.code], [400, 'ADM-011'], JSON.stringify(body));
      assert.equal(headers.get('content-type'), 'application/problem+json');
    }
    for (const [raw, headers] of [
      ['{"subject":', {}], ['', {}], [JSON.stringify(READ), { 'content-type': 'text/plain' }],
      ['{"a":1,"a":2}', {}],
    ]) {
      assert.equal((await ask('evaluation', null, { raw, headers })).status, 400, raw);
    }
  });

  test('basic: the request’s name comes back, with refusals too; the same again is the same', async () => {
    const headers = { 'x-request-id': 'bfe9eb29-ab87-4ca3-be83-a1d5d8305716' };
    for (const answer of [
      await ask('evaluation', READ, { headers }),
      await ask('evaluation', {}, { headers }),
      await ask('evaluation', READ, { headers: { ...headers, authorization: 'Bearer x' } }),
    ]) {
      assert.equal(answer.headers.get('x-request-id'), headers['x-request-id'], `${answer.status}`);
    }
    assert.equal((await ask('evaluation', READ)).headers.get('x-request-id'), null);
    const same = await Promise.all(Array.from({ length: 20 }, () => decided(READ)));
    assert.ok(same.every(({ decision }) => decision === true));
  });

  test('batch: defaults, order, errors of one, and when to stop', async () => {
    const batch = async (body) => (await ask('evaluations', body)).body.evaluations.map((e) => e.decision);
    const [one, two] = [record('record-1'), record('record-2', 'archived')];
    assert.deepEqual(await batch({ subject: bob, resource: one, evaluations: [{ action: does('read') }, { action: does('write') }] }), [true, false]);
    const writes = { subject: alice, action: does('write'), resource: record('record-1', 'active') };
    assert.deepEqual(await batch({ ...writes, evaluations: [{}, { resource: two }] }), [true, false]);
    assert.deepEqual(await batch({ action: does('write'), resource: two, evaluations: [{ subject: alice }, { subject: admin_ }] }), [false, true]);
    assert.deepEqual(await batch({ evaluations: [READ, { ...READ, subject: bob, action: does('write') }] }), [true, false]);
    const failing = { subject: alice, action: does('read'), evaluations: [{ resource: one }, {}] };
    for (const options of [undefined, { evaluations_semantic: 'execute_all', another: 1 }]) {
      assert.deepEqual(await batch({ ...failing, options }), [true, false]);
    }
    const three = { ...writes, evaluations: [{}, { resource: two }, {}] };
    const until = (evaluations_semantic) => batch({ ...three, options: { evaluations_semantic } });
    assert.deepEqual(await until('deny_on_first_deny'), [true, false]);
    assert.deepEqual(await until('permit_on_first_permit'), [true]);
    for (const more of [{}, { evaluations: [] }]) {
      assert.equal((await ask('evaluations', { ...READ, ...more })).body.decision, true);
    }
    for (const body of [
      {}, { evaluations: 'x' }, { evaluations: [1] }, { ...three, options: { evaluations_semantic: 'x' } },
      { ...READ, evaluations: Array.from({ length: 257 }, () => ({})) },
    ]) {
      assert.equal((await ask('evaluations', body)).status, 400, JSON.stringify(body).slice(0, 80));
    }
  });

  test('search: who, with what, what; in parts; nothing is no error', async () => {
    const found = async (what, body) => {
      const { status, body: answer } = await ask(`search/${what}`, body);
      assert.equal(status, 200, JSON.stringify(answer));
      return answer.results.map(({ id, name }) => id ?? name).sort();
    };
    const [read, write] = [does('read'), does('write')];
    const users = { subject: { type: 'user' }, action: read, resource: record('record-1') };
    assert.deepEqual(await found('subject', users), ['alice', 'bob']);
    for (const more of [{ context: { ip: '::1' } }, { subject: { type: 'user', id: 'alice' } }]) {
      assert.deepEqual(await found('subject', { ...users, ...more }), ['alice', 'bob']);
    }
    const archived = record('record-2', 'archived');
    assert.deepEqual(await found('subject', { ...users, action: write, resource: archived }), ['bob']);
    const records = { subject: alice, action: read, resource: { type: 'record' } };
    assert.deepEqual(await found('resource', records), ['record-1', 'record-2']);
    assert.deepEqual(await found('resource', { ...records, resource: record('record-9') }), ['record-1', 'record-2']);
    assert.deepEqual(await found('resource', { ...records, subject: admin_, action: write }), ['record-2']);
    assert.deepEqual(await found('action', { subject: alice, resource: record('record-1') }), ['read', 'write']);
    assert.deepEqual(await found('action', { subject: admin_, resource: archived }), ['read', 'write']);

    const first = (await ask('search/subject', { ...users, page: { limit: 1 } })).body;
    assert.deepEqual([first.results.length, first.page.count], [1, 1]);
    const rest = (await ask('search/subject', { ...users, page: { token: first.page.next_token } })).body;
    assert.deepEqual([...first.results, ...rest.results].map(({ id }) => id), ['alice', 'bob']);
    assert.equal(rest.page.next_token, '');
    const other = { ...users, action: write, page: { token: first.page.next_token } };
    assert.equal((await ask('search/subject', other)).status, 400, 'a token goes on with its own search');

    const nobody = [
      ['subject', { ...users, resource: record('none') }], ['subject', { ...users, subject: { type: 'none' } }],
      ['resource', { ...records, subject: entity('user', 'none') }], ['resource', { ...records, resource: { type: 'none' } }],
      ['action', { subject: entity('none', 'x'), resource: record('record-1') }],
    ];
    for (const [what, body] of nobody) assert.deepEqual(await found(what, body), [], JSON.stringify(body));
    for (const [what, body] of [
      ['subject', { ...users, resource: { type: 'record' } }], ['subject', { ...users, action: undefined }],
      ['resource', { ...records, subject: { type: 'user' } }], ['action', { subject: { type: 'user' }, resource: record('record-1') }],
    ]) {
      assert.equal((await ask(`search/${what}`, body)).status, 400, JSON.stringify(body));
    }
  });

  test('discovery: the document is where the address says, and leads to everything', async () => {
    const { origin, pathname } = new URL(at);
    const found = await fetch(`${origin}/.well-known/authzen-configuration${pathname}`);
    assert.deepEqual([found.status, found.headers.get('content-type')], [200, 'application/json']);
    const { policy_decision_point, ...endpoints } = await found.json();
    assert.equal(policy_decision_point, at);
    assert.equal(Object.keys(endpoints).length, 5);
    for (const url of Object.values(endpoints)) {
      const { status } = await fetch(url, {
        method: 'POST', body: '{}',
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      });
      assert.equal(status, 400, `${url} is there`);
      assert.equal((await fetch(url, { method: 'POST' })).status, 401, `${url} wants a token`);
    }
    assert.deepEqual((await admin(gateway, '/.well-known/authzen-configuration')).body.policy_decision_point, at);
  });
});

describe('two gateways', () => {
  test('one asks the other about each call, as it would any decision point', async () => {
    const port = await freePort();
    const terms = { price: 'free', consent: 'none', intent: 'read' };
    const asking = await parts.keep('asking', startBefore(sandbox, {
      issuers: [issuer.url],
      servers: { weather: { resource: mcp, tools: { get_report: terms, delete_report: terms, get_broken: terms } } },
      policy: {
        pdp: {
          url: `${at}/access/v1/evaluation`, bearer: 'env:PDP_TOKEN', timeout: '5s', allow_private_network: true,
        },
      },
    }, { port, env: { PDP_TOKEN: token } }));
    const user = await issuer.userToken('ben', mcp);
    const call = (tool) => callTool(asking, 'weather', tool, {}, {
      headers: { authorization: `Bearer ${user}`, accept: MCP },
    });
    const ran = await call('get_report');
    assert.ok(ran.result && !ran.problem, JSON.stringify(ran.problem));
    // The other one wants a person for this tool, and does not know that one.
    for (const tool of ['delete_report', 'get_broken']) {
      assert.equal((await call(tool)).problem?.code, 'POL-006', tool);
    }
  });
});

describe('agents and tools: what the gateway itself would say', () => {
  const agent = (name = 'planner', more = {}) => entity('agent', `default/${name}`, {
    acting_for: `${issuer.url}|ada`, human: true, ...more,
  });
  const tool = (name) => entity('tool', `weather/${name}`);
  const call = (name, subject = agent(), action = 'call', context) =>
    decided({ subject, action: does(action), resource: tool(name), context });

  test('a denial says why and where to ask; with the grant it is a yes; nothing is left behind', async () => {
    const start = (await admin(gateway, '/v1/status')).body;
    const no = await call('get_forecast');
    assert.deepEqual([no.decision, no.context.reason], [false, 'CNS-001']);
    assert.match(no.context.evaluation_id, /^dec_/);
    assert.match(no.context.facts.approve_with, /countersign grant create/);
    assert.deepEqual(no.context.ask.actor, 'human');
    assert.equal(no.context.ask.form_url, `${new URL(at).origin}/`);
    assert.equal((await admin(gateway, '/v1/approvals')).body.items.length, 0, 'nobody was asked');

    const made = await admin(gateway, '/v1/grants', { method: 'POST', body: {
      issuer: issuer.url, subject: 'ada', agent: 'planner', server: 'weather',
      tools: ['get_forecast'], intents: ['read'], per_call: '0.05 USD', expires: '1h',
    } });
    assert.equal(made.status, 201);
    const yes = await call('get_forecast');
    assert.deepEqual([yes.decision, yes.context.price], [true, '0.01 USDC'], JSON.stringify(yes));
    const end = (await admin(gateway, '/v1/status')).body;
    assert.equal(end.records, start.records + 1, 'the grant’s record alone');
    assert.equal((await admin(gateway, '/v1/calls')).body.items.length, 0);
  });

  test('it says what becomes of the real call', async () => {
    const user = await issuer.userToken('ada', mcp);
    const headers = { authorization: `Bearer ${user}`, accept: MCP };
    const doomed = await callTool(gateway, 'weather', 'delete_report', {}, { headers });
    const { agent: name, tenant } = (await admin(gateway, '/v1/approvals')).body.items[0];
    const same = entity('agent', `${tenant}/${name}`, { acting_for: `${issuer.url}|ada`, human: true });
    const said = await call('delete_report', same);
    assert.equal(said.decision, false);
    assert.equal(said.context.reason, doomed.problem.code, JSON.stringify([said, doomed.problem]));
    // The denial carries the real request, which the agent's own attempt opened.
    const { access_request: open } = said.context;
    assert.equal(open.status, 'pending', JSON.stringify(said.context));
    assert.equal(open.endpoint, doomed.problem.next.url);
    assert.ok(open.endpoint.endsWith(open.id) && Date.parse(open.expires_at) > Date.now());
    const unasked = await call('delete_report', agent('somebody-else'));
    assert.deepEqual([unasked.decision, unasked.context.access_request], [false, undefined]);
    assert.equal((await call('get_report', same)).decision, true);
    const real = await callTool(gateway, 'weather', 'get_report', {}, { headers });
    assert.ok(real.result, JSON.stringify(real.problem));
  });

  test('who asks adds what they may know, and no more', async () => {
    const declared = await call('delete_report', agent(), 'read');
    assert.deepEqual([declared.decision, declared.context.reason], [false, 'POL-004'], 'declaring lowers nothing');
    const boast = agent('planner', { trust: { tier: 3 }, assurance: 3 });
    assert.equal((await call('delete_report', boast)).decision, false);
    assert.equal((await call('get_forecast', entity('agent', 'default/planner'))).context.reason, 'IDN-001');
    const argued = await call('get_forecast', agent(), 'call', { arguments: { sql: 'DROP TABLE x' } });
    assert.equal(argued.decision, false, 'arguments raise what it does');
    for (const [subject, name, action, reason] of [
      [agent(), 'nothing', 'call', 'REQ-015'],
      [agent(), 'get_report', 'fly', 'ACTION_UNKNOWN'],
      [entity('agent', 'planner'), 'get_report', 'call', 'SUBJECT_UNKNOWN'],
      [agent('planner', { acting_for: 7 }), 'get_report', 'call', 'FACTS_UNUSABLE'],
      [agent('planner', { roles: 'x' }), 'get_report', 'call', 'FACTS_UNUSABLE'],
      // A program sees its own tenant alone.
      [entity('agent', 'elsewhere/planner', { acting_for: 'i|s' }), 'get_report', 'call', 'SUBJECT_UNKNOWN'],
    ]) {
      const { decision, context } = await call(name, subject, action);
      assert.deepEqual([decision, context.reason], [false, reason], `${name} ${action}`);
    }
  });

  test('search: agents by their grants, tools, and what may be done with them', async () => {
    const found = async (what, body) => (await ask(`search/${what}`, body)).body.results;
    const forecast = { action: does('call'), resource: tool('get_forecast') };
    assert.deepEqual(await found('subject', { subject: { type: 'agent' }, ...forecast }), [{
      type: 'agent', id: 'default/planner', properties: { acting_for: `${issuer.url}|ada`, human: true },
    }]);
    const tools = await found('resource', { subject: agent(), action: does('call'), resource: { type: 'tool' } });
    assert.deepEqual(tools.map(({ id }) => id), ['weather/get_forecast', 'weather/get_report']);
    const actions = await found('action', { subject: agent(), resource: tool('get_forecast') });
    assert.deepEqual(actions.map(({ name }) => name), ['read']);
  });
});
