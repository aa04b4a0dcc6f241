// The admin API as programs use it: its document, pages, idempotency keys, and schemathesis on all of it.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Parts } from './lib/gate.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { freePort } from './lib/process.mjs';
import { admin, callTool, startBefore, startParts } from './lib/rig.mjs';
import { schemathesis, toSocket } from './lib/schemathesis.mjs';

const PROGRAM = { id: 'ops-program', secret: 'ops-program-secret' };
const FOREIGN = { id: 'foreign-program', secret: 'foreign-program-secret' };
const SEED = process.env.COUNTERSIGN_TEST_SEED ?? '20261124';

const parts = new Parts();
let sandbox, issuer, gateway, bridge, at, mcp, dir, document;

before(() =>
  parts.starting(async () => {
    const [port, consolePort] = [await freePort(), await freePort()];
    at = `http://127.0.0.1:${consolePort}/api`;
    mcp = `http://127.0.0.1:${port}/weather/mcp`;
    const client = { id: 'countersign-console', secret: 'console-secret-1' };
    const roles = ['operator', 'approver', 'admin'];
    sandbox = await parts.keep('sandbox', startParts());
    issuer = await parts.keep('issuer', startIssuer({
      resources: [mcp, at],
      machines: [PROGRAM, FOREIGN],
      claims: ({ client }) => ({ org_id: client === FOREIGN.id ? 'elsewhere' : 'default', roles }),
      consoles: [{ ...client, redirectUri: `http://127.0.0.1:${consolePort}/sign-in/callback` }],
    }));
    gateway = await parts.keep('gateway', startBefore(sandbox, {
      issuers: [issuer.url],
      servers: {
        weather: {
          tools: {
            get_forecast: { price: '0.01 USDC' },
            get_report: { price: 'free', consent: 'none', identity: 'anonymous' },
          },
        },
      },
      budgets: [{ name: 'everybody', limit: '5 USD', window: '24h' }],
      console: {
        listen: `127.0.0.1:${consolePort}`,
        api_clients: [PROGRAM.id, FOREIGN.id],
        sign_in: {
          issuer: issuer.url,
          client_id: client.id,
          client_secret: 'env:CONSOLE_SECRET',
          tenant_claim: 'org_id',
          allow_private_network: true,
        },
      },
    }, { port, env: { CONSOLE_SECRET: client.secret } }));
    bridge = await parts.keep('bridge', toSocket(`${gateway.dir}/data/admin.sock`));
    dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-api-'));
    document = (await admin(gateway, '/v1/openapi.json')).body;
  }),
);
after(async () => {
  await parts.stop();
  if (dir) rmSync(dir, { recursive: true });
});

const wanted = () => ({
  issuer: issuer.url, subject: 'ada', agent: 'planner', server: 'weather',
  tools: ['get_forecast'], intents: ['read'], per_call: '0.05 USD', expires: '24h',
});
const post = (path, body, headers) => admin(gateway, path, { method: 'POST', body, headers });
const make = (agent, key) =>
  post('/v1/grants', { ...wanted(), agent }, key && { 'idempotency-key': key });
const grantsOf = async (agent) => (await admin(gateway, `/v1/grants?agent=${agent}`)).body.items;

describe('the document', () => {
  test('is served on the socket and over the network, and printed by the command line', async () => {
    assert.equal(document.openapi, '3.1.0');
    const token = await issuer.clientCredentials(at, 'mcp:call', PROGRAM);
    const remote = await fetch(`${at}/v1/openapi.json`, { headers: { authorization: `Bearer ${token}` } });
    assert.deepEqual(await remote.json(), document);
    assert.equal((await fetch(`${at}/v1/openapi.json`)).status, 401);
    assert.deepEqual(await gateway.cli('schema', '--api'), document);
  });

  test('names every method of every path, and no other', async () => {
    for (const [path, ways] of Object.entries(document.paths)) {
      const real = path.replace(/\{[^}]+\}/g, 'x');
      const { status, headers } = await admin(gateway, real, { method: 'DELETE' });
      assert.equal(status, 405, path);
      const allowed = headers.allow.split(',').filter((method) => method !== 'HEAD');
      assert.deepEqual(allowed.sort(), Object.keys(ways).map((way) => way.toUpperCase()).sort(), path);
    }
    const { status, body } = await admin(gateway, '/v1/nowhere');
    assert.deepEqual([status, body.code], [404, 'ADM-002']);
  });
});

describe('pages', () => {
  test('join to the whole list, whatever comes meanwhile, and the command line shows all of it', async () => {
    const made = [];
    for (let n = 0; n < 1010; n += 40) {
      const some = Array.from({ length: Math.min(40, 1010 - n) }, () => make('pager'));
      made.push(...(await Promise.all(some)).map(({ body }) => body.grant.id));
    }
    const seen = [];
    let pages = 0;
    for (let next = ''; next !== undefined; pages++) {
      const cursor = next && `&cursor=${next}`;
      const { status, body } = await admin(gateway, `/v1/grants?agent=pager&limit=300${cursor}`);
      assert.equal(status, 200, JSON.stringify(body));
      seen.push(...body.items.map(({ id }) => id));
      next = body.next;
      // One that comes while somebody pages is before their first page.
      if (pages === 1) await make('pager');
    }
    assert.equal(pages, 4);
    assert.deepEqual(seen, [...made].sort().reverse());
    const { items } = await gateway.cli('grant', 'list', '--agent', 'pager');
    assert.equal(items.length, 1011);
  });

  test('a cursor is one list’s own, and limits have bounds', async () => {
    const { body } = await admin(gateway, '/v1/grants?agent=pager&limit=1');
    for (const query of [
      `agent=another&cursor=${body.next}`, `cursor=${body.next}`, 'cursor=x', 'limit=0', 'limit=1001',
    ]) {
      const { status, body: problem } = await admin(gateway, `/v1/grants?${query}`);
      assert.deepEqual([status, problem.code], [422, 'ADM-001'], query);
    }
    for (let n = 0; n < 3; n++) await callTool(gateway, 'weather', 'get_report');
    const first = (await admin(gateway, '/v1/calls?limit=2')).body;
    const rest = (await admin(gateway, `/v1/calls?limit=2&cursor=${first.next}`)).body;
    const ids = [...first.items, ...rest.items].map(({ call }) => call);
    assert.deepEqual(ids, [...new Set(ids)].sort().reverse());
    assert.equal((await gateway.cli('calls', 'list', '--limit', '3')).items.length, 3);
  });
});

describe('idempotency keys', () => {
  test('the same request is done once and answered alike, over a restart too', async () => {
    const key = '"8e03978e-40d5-43e8-bc93-6894a57f9324"';
    const first = await make('keyed', key);
    assert.deepEqual([first.status, first.headers['idempotency-replayed']], [201, undefined]);
    const again = await make('keyed', key);
    assert.deepEqual([again.status, again.body], [201, first.body]);
    assert.equal(again.headers['idempotency-replayed'], 'true');
    assert.equal(again.headers['content-type'], 'application/json');
    await gateway.kill9();
    await gateway.restart();
    assert.deepEqual((await make('keyed', key)).body, first.body);
    assert.equal((await grantsOf('keyed')).length, 1);
  });

  test('a key is for one request: another body or path is refused', async () => {
    const key = 'one-request';
    await make('keyed-two', key);
    const other = await make('keyed-three', key);
    assert.deepEqual([other.status, other.body.code], [422, 'ADM-008']);
    const elsewhere = await post('/v1/approvers/withdraw', { subject: 'os:1:x' }, { 'idempotency-key': key });
    assert.deepEqual([elsewhere.status, elsewhere.body.code], [422, 'ADM-008']);
    assert.deepEqual(await grantsOf('keyed-three'), []);
  });

  test('of many at once one is done; a refusal is answered alike too', async () => {
    const many = await Promise.all(Array.from({ length: 30 }, () => make('keyed-many', 'at-once')));
    const done = many.filter(({ status }) => status === 201);
    assert.ok(done.length > 0);
    for (const { status, body } of many) {
      if (status === 201) assert.deepEqual(body, done[0].body);
      else assert.deepEqual([status, body.code], [409, 'ADM-010']);
    }
    assert.equal((await grantsOf('keyed-many')).length, 1);
    const wrong = () => post('/v1/grants', { ...wanted(), server: 'nowhere' }, { 'idempotency-key': 'wrong' });
    const [first, again] = [await wrong(), await wrong()];
    assert.deepEqual([first.status, first.body], [422, again.body]);
    assert.equal(again.headers['idempotency-replayed'], 'true');
    assert.equal(again.headers['content-type'], 'application/problem+json');
  });

  test('one that was done and never answered is not done again, after a crash too', async () => {
    const [port, dir] = [await freePort(), mkdtempSync(path.join(os.tmpdir(), 'countersign-crash-'))];
    const started = (env) => startBefore(sandbox, {
      issuers: [issuer.url], servers: { weather: { tools: { get_forecast: { price: '0.01 USDC' } } } },
    }, { port, dir, env });
    const once = (gateway, key) => admin(gateway, '/v1/grants', {
      method: 'POST', body: wanted(), headers: { 'idempotency-key': key },
    });
    try {
      const doomed = await parts.keep('doomed', started({ COUNTERSIGN_FAILPOINT: 'named.done' }));
      await assert.rejects(once(doomed, 'lost'), /socket hang up|ECONNRESET/);
      await doomed.kill9();
      const again = await parts.keep('again', started({}));
      const { status, body } = await once(again, 'lost');
      assert.deepEqual([status, body.code], [409, 'ADM-010']);
      assert.equal((await admin(again, '/v1/grants')).body.items.length, 1, 'it was done, once');
      assert.equal((await once(again, 'fresh')).status, 201);
      await again.stop();
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  test('keys are their sender’s own; what is no key is refused', async () => {
    const token = await issuer.clientCredentials(at, 'mcp:call', PROGRAM);
    const key = 'whose';
    const { body: { grant } } = await make('keyed-own', key);
    const response = await fetch(`${at}/v1/grants/${grant.id}/suspend`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'idempotency-key': key },
    });
    assert.equal(response.status, 200, await response.text());
    for (const bad of ['""', 'two words', '"open', 'x'.repeat(256)]) {
      const { status, body } = await make('keyed-bad', bad);
      assert.deepEqual([status, body.code], [422, 'ADM-001'], bad);
    }
    assert.deepEqual(await grantsOf('keyed-bad'), []);
  });
});

// What every operation may answer to a request of the form that the document gives it: 2xx. And
// what else is true of some, and why.
const ALSO = [
  // Ended already, or never begun: it is said where the thing stands. (A grant that was revoked and
  // a request that is void answer 403, with their own codes.)
  [['approve', 'suspendGrant', 'resumeGrant'], [403, 409]],
  // A parent that is somebody else's.
  [['createGrant'], [403]],
  [['deny', 'revokeGrant', 'resolveDoubt', 'bookRefund', 'endUnsettled'], [409]],
  // Names that people give: of a budget, a person, a key, a wallet, a credential, a bundle, a tool.
  // There is nothing of that name, or, of a key, there is already.
  [['removeBudget', 'addKey'], [404, 409, 422]],
  [
    ['reinstateApprover', 'revokeKey', 'unlinkWallet', 'revokeCredential', 'bookUnclaimed', 'stopShadow', 'approveTool', 'getQuote'],
    [404],
  ],
  // What the form cannot say: a time zone, a budget that the configuration declares, a point of a
  // curve, a chain that is paid on, the wallet's signature under a fresh message, a bundle's own
  // tests, a name with its tenant.
  [['setBudget'], [409, 422]],
  [['askWallet', 'linkWallet', 'activatePolicy', 'rollBackPolicy', 'setShadow', 'setTier'], [422]],
  // No node and no limits are configured here.
  [['quoteRoom', 'rebalance'], [409]],
  // A token of another search is a string like any other; AuthZEN knows 400 alone for it.
  [['searchSubjects', 'searchResources', 'searchActions'], [400]],
];
// A program acts as an operator of one tenant, whatever its roles: it answers nothing, makes no
// grant, and changes nothing that other tenants share.
const MAY_NOT = [
  [['approve', 'deny', 'createGrant', 'resumeGrant', 'withdrawApprover', 'reinstateApprover'], [403]],
  [['setTier', 'setBudget', 'removeBudget', 'revokeCredential', 'approveTool', 'addKey', 'linkWallet', 'askWallet'], [403]],
  [['listWithdrawnApprovers', 'listRefusals', 'listTiers'], [403]],
  // The owner of the machine's alone.
  [['activatePolicy', 'rollBackPolicy', 'setShadow', 'stopShadow', 'reload'], [403]],
  [['getLightning', 'quoteRoom', 'suggestRoom', 'rebalance'], [403]],
  // Calls of nobody in particular are of no tenant, and other tenants' are nobody's business.
  [['getCall', 'listBudgets'], [404]],
];
// A cursor of the right letters that no page gave.
const CURSOR = [422];
// JSON Schema takes 1.0 for an integer; whoever counts money and calls does not write it.
const WHOLE = [422];

/** The statuses that are right for well-formed requests, operation by operation, as TOML. */
function acceptance(document, more = []) {
  const operations = Object.values(document.paths).flatMap((ways) => Object.values(ways));
  return operations.map(({ operationId, parameters, requestBody }) => {
    const also = [...ALSO, ...more].filter(([ids]) => ids.includes(operationId)).flatMap(([, which]) => which);
    if (parameters.some(({ name }) => name === 'cursor')) also.push(...CURSOR);
    if (JSON.stringify(requestBody ?? {}).includes('"integer"')) also.push(...WHOLE);
    const statuses = JSON.stringify(['2xx', ...new Set(also)].map(String));
    return `[[operations]]\ninclude-operation-id = "${operationId}"\n`
      + `checks.positive_data_acceptance.expected-statuses = ${statuses}\n`;
  }).join('\n');
}

/** The document of this very deployment: where it says “a name”, the names that there are. */
function here(document, { things, header }) {
  const own = structuredClone(document);
  const forms = {
    '^appr_[0-9a-fA-F]{32}$': { enum: things.approvals },
    '^grant_[0-9a-fA-F]{32}$': { enum: things.grants },
    '^call_[0-9a-fA-F]{32}$': { enum: things.calls },
    [MONEY]: { pattern: '^[1-9][0-9]{0,3}[.][0-9]{1,6} USD$' },
    [SPAN]: { enum: ['1ms', '90s', '24h', '30d'] },
    [WINDOW]: { pattern: '^[1-9][0-9]{0,3} USD/(90s|24h|30d)$' },
  };
  const narrow = (schema) => {
    if (schema === null || typeof schema !== 'object') return;
    const form = forms[schema.pattern];
    if (form) {
      delete schema.pattern;
      delete schema.examples;
      Object.assign(schema, structuredClone(form));
      if (schema.enum && [schema.type].flat().includes('null')) schema.enum.push(null);
    }
    Object.values(schema).forEach(narrow);
  };
  for (const way of Object.values(own.paths).flatMap((ways) => Object.values(ways))) {
    if (!header) way.parameters = way.parameters.filter(({ name }) => name !== 'Idempotency-Key');
    narrow(way.parameters);
    narrow(way.requestBody);
  }
  const grant = own.paths['/v1/grants'].post.requestBody.content['application/json'].schema.properties;
  grant.server = { enum: ['weather'] };
  grant.issuer = { enum: [issuer.url] };
  grant.tools.items = { enum: ['*', 'get_forecast', 'get_report'] };
  return own;
}
const MONEY = '^(0|[1-9][0-9]{0,17})(\\.[0-9]{1,18})? [A-Za-z0-9._-]{1,32}$';
const WINDOW = '^[^/]+ [^/]+/[0-9]{1,15}(ms|s|m|h|d)$';
const SPAN = '^[0-9]{1,15}(ms|s|m|h|d)$';

describe('schemathesis finds nothing', () => {
  const agentOf = async (login) => {
    const token = await issuer.userToken(login, mcp);
    return { headers: { authorization: `Bearer ${token}`, accept: 'application/json, text/event-stream' } };
  };

  /** Things of every kind, so that the operations on one of them reach past “there is none”. */
  async function seeded(...people) {
    for (const login of people) {
      const agent = await agentOf(login);
      for (const city of ['Oslo', 'Bergen']) await callTool(gateway, 'weather', 'get_forecast', { city }, agent);
    }
    const approvals = (await admin(gateway, '/v1/approvals?status=pending')).body.items;
    const grants = [];
    for (let n = 0; n < 12; n++) grants.push((await make('for-schemathesis')).body.grant);
    const calls = (await admin(gateway, '/v1/calls?limit=20')).body.items;
    for (const some of [approvals, grants, calls]) assert.ok(some.length >= 6);
    return {
      approvals: approvals.map(({ id }) => id),
      grants: grants.map(({ id }) => id),
      calls: calls.map(({ call }) => call),
    };
  }

  // Every check that there is, with none left out.
  const ARGS = [
    '--checks', 'all', '--max-response-time', '5', '--seed', SEED, '--continue-on-failure', '--warnings', 'off',
  ];

  test('as the owner of the socket, who may do everything', { timeout: 900_000 }, async () => {
    const file = path.join(dir, 'openapi.json');
    // On the socket the kernel says who asks. One key sent with two requests is refused, which is
    // tested above, and would hide what the second request says.
    const { security: _, ...open } = here(document, { things: await seeded('ada', 'ben', 'eve'), header: false });
    writeFileSync(file, JSON.stringify(open));
    const said = await schemathesis(bridge.url, file, {
      config: acceptance(open), args: [...ARGS, '--max-examples', '10'],
    });
    assert.match(said, /Tested: +\d\d/);
    assert.equal((await admin(gateway, '/v1/health')).status, 200);
  });

  test('as programs of two tenants over the network: no operation without its token, nothing of the other', { timeout: 900_000 }, async () => {
    const file = path.join(dir, 'openapi-network.json');
    const things = await seeded('fay', 'gus', 'ida');
    writeFileSync(file, JSON.stringify(here(document, { things, header: false })));
    const users = await Promise.all([PROGRAM, FOREIGN].map(async (client) => ({
      name: client.id,
      fixedHeaders: [{
        name: 'Authorization',
        value: `Bearer ${await issuer.clientCredentials(at, 'mcp:call', client)}`,
      }],
    })));
    const auth = path.join(dir, 'auth.json');
    writeFileSync(auth, JSON.stringify({ auth: users }));
    const who = `[auth.wfc]\npath = "${auth}"\nuser = "${PROGRAM.id}"\npeers = ["${PROGRAM.id}", "${FOREIGN.id}"]\n\n`;
    const said = await schemathesis(at, file, {
      config: who + acceptance(document, MAY_NOT), args: [...ARGS, '--max-examples', '5'],
    });
    assert.match(said, /Tested: +\d\d/);
    assert.ok(gateway.isRunning());
  });
});
