// Consent as stock clients live it: they ask, a person answers, the same call runs; a link where
// the client can show one; floods, restarts, denials with a reason, a revocation during a call.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { startEverything } from './lib/everything.mjs';
import { Parts, callOf, grant, issuerConfig, post, problemOf, textOf } from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { legacyClient, modernClient } from './lib/mcpclients.mjs';
import { freePort } from './lib/process.mjs';
import { startOwnServer } from './lib/tap.mjs';
import { bearer } from './lib/wire.mjs';

const PAGE = 'https://approve.example/approvals/';
const needsConsent = { price: 'free', consent: 'required' };
const canOpenLinks = { elicitation: { url: {} } };
const result = (text) =>
  JSON.stringify({ resultType: 'complete', content: [{ type: 'text', text }] });

const parts = new Parts();
let own, issuer, gateway, url;

before(() =>
  parts.starting(async () => {
    const port = await freePort();
    url = (server) => `http://127.0.0.1:${port}/${server}/mcp`;
    const everything = await parts.keep('everything', startEverything());
    const schema = { type: 'object' };
    const tools = ['get_thing', 'get_report', 'ask_back'].map((name) => ({
      name,
      inputSchema: schema,
    }));
    own = await parts.keep(
      'own',
      startOwnServer({ tools, answer: ({ params }) => result(`ran ${params.name}`) }),
    );
    issuer = await parts.keep('issuer', startIssuer({ resources: ['main', 'own'].map(url) }));
    gateway = await parts.keep(
      'gateway',
      startGateway({
        port,
        config: {
          listen: `127.0.0.1:${port}`,
          issuers: [issuerConfig(issuer)],
          consent: { approve_url: `${PAGE}{approval}` },
          limits: { pending_approvals_per_principal: 4, asks_per_agent_per_hour: 200 },
          servers: {
            main: { upstream: everything.url, tools: { echo: needsConsent } },
            own: {
              upstream: own.url,
              tools: {
                get_thing: needsConsent,
                get_report: needsConsent,
                ask_back: { price: 'free', intent: 'read' },
              },
            },
          },
        },
      }),
    );
  }),
);

after(() => parts.stop());

const tokenOf = (name, server = 'own') => issuer.userToken(name, url(server));

/** One legacy call over plain HTTP: asks, or runs. */
async function calling(name, tool = 'get_thing', args = {}) {
  const token = await tokenOf(name);
  return () => post(url('own'), callOf(tool, args), bearer(token));
}

const waiting = async (id) =>
  (await gateway.cli('approvals', 'list')).items.find((item) => item.id === id);

test('a missing grant is asked for; approved once, the same call runs once', async () => {
  const call = await calling('anna', 'get_thing', { city: 'Oslo' });
  const asked = problemOf(await call());
  assert.equal(asked.code, 'CNS-001');
  const id = asked.facts.approval;
  assert.equal(asked.next.url, `${PAGE}${id}`);
  assert.equal(problemOf(await call()).facts.approval, id, 'asked once');
  const shown = await waiting(id);
  assert.deepEqual(
    [shown.kind, shown.arguments, shown.price, shown.needed],
    ['consent', '{"city":"Oslo"}', 'free', 1],
  );
  await gateway.cli('approvals', 'approve', id, '--content', shown.content);
  assert.equal(textOf(await call()), 'ran get_thing');
  const next = problemOf(await call());
  assert.equal(next.code, 'CNS-001', 'one approval, one execution');
  assert.notEqual(next.facts.approval, id);
  const other = problemOf(await (await calling('anna', 'get_thing', { city: 'Bern' }))());
  assert.deepEqual((await waiting(other.facts.approval)).changed, ['/city']);
});

test('approved as a grant, every such call runs, within its limits', async () => {
  const call = await calling('bert');
  const { approval } = problemOf(await call()).facts;
  const made = await gateway.cli(
    'approvals', 'approve', approval, '--expires', '1h', '--max-calls', '2',
  );
  assert.match(made.grant, /^grant_/);
  assert.equal(textOf(await call()), 'ran get_thing');
  assert.equal(textOf(await call()), 'ran get_thing');
  assert.equal(problemOf(await call()).code, 'CNS-006');
});

test('a denial reaches the agent with its reason, and is not asked again', async () => {
  const call = await calling('cora');
  const { approval } = problemOf(await call()).facts;
  await gateway.cli('approvals', 'deny', approval, '--reason', 'not this month');
  for (const answer of [await call(), await call()]) {
    assert.equal(problemOf(answer).code, 'CNS-009');
    assert.match(textOf(answer), /not this month/);
  }
});

test('what is pending survives a crash, and what was approved too', async () => {
  const [dora, emil] = [await calling('dora'), await calling('emil')];
  const pending = problemOf(await dora()).facts.approval;
  const approved = problemOf(await emil()).facts.approval;
  await gateway.cli('approvals', 'approve', approved);
  await gateway.kill9();
  await gateway.restart();
  assert.equal(textOf(await emil()), 'ran get_thing');
  assert.equal(problemOf(await dora()).facts.approval, pending);
  await gateway.cli('approvals', 'approve', pending);
  assert.equal(textOf(await dora()), 'ran get_thing');
});

test('of a flood of requests only a few reach a person', async () => {
  const token = await tokenOf('flora');
  const answers = await Promise.all(
    Array.from({ length: 40 }, (_, n) => post(url('own'), callOf('get_thing', { n }), bearer(token))),
  );
  assert.ok(answers.every((answer) => problemOf(answer).code === 'CNS-001'));
  const asked = answers.filter((answer) => problemOf(answer).facts.approval);
  assert.equal(asked.length, 4);
  const { items } = await gateway.cli('approvals', 'list');
  assert.equal(items.filter((item) => item.delegator.endsWith('|flora')).length, 4);
});

test('the agent cannot answer: neither by its token nor by agreeing to open a link', async () => {
  const call = await calling('gina');
  const { approval } = problemOf(await call()).facts;
  const token = await tokenOf('gina');
  const path = new URL(`/v1/approvals/${approval}/approve`, gateway.url);
  const answer = await post(path, {}, bearer(token));
  assert.equal(answer.status, 404, 'no such route on the public listener');
  assert.equal(problemOf(await call()).facts.approval, approval);
});

test('a modern client is shown the link, once; then the same call runs', async () => {
  const opened = [];
  const client = await modernClient(url('own'), {
    token: await tokenOf('hugo'),
    capabilities: canOpenLinks,
  });
  client.setRequestHandler('elicitation/create', async ({ params }) => {
    opened.push(params);
    return { action: 'accept' };
  });
  try {
    const denied = await client.callTool({ name: 'get_report', arguments: {} });
    assert.equal(opened.length, 1, 'asked once a call');
    assert.equal(opened[0].mode, 'url');
    assert.match(opened[0].url, /approvals\/appr_[0-9a-f]{32}$/);
    assert.match(opened[0].message, /own\/get_report/);
    assert.equal(problemOf(denied).code, 'CNS-001', 'agreeing to open a link approves nothing');
    // The person answers while the client asks its user.
    client.setRequestHandler('elicitation/create', async ({ params }) => {
      await gateway.cli('approvals', 'approve', params.url.split('/').at(-1));
      return { action: 'accept' };
    });
    const ran = await client.callTool({ name: 'get_report', arguments: {} });
    assert.equal(textOf(ran), 'ran get_report');
  } finally {
    await client.close();
  }
});

const modernCall = (params, capabilities = canOpenLinks) => ({
  jsonrpc: '2.0',
  id: 1,
  method: 'tools/call',
  params: {
    ...params,
    _meta: {
      'io.modelcontextprotocol/protocolVersion': '2026-07-28',
      'io.modelcontextprotocol/clientCapabilities': capabilities,
    },
  },
});

async function modernPost(token, params, capabilities) {
  const headers = {
    ...bearer(token),
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': 'tools/call',
    'mcp-name': params.name,
  };
  return post(url('own'), modernCall(params, capabilities), headers);
}

test('a request state is of one principal and one call, counts once, and never leaves', async () => {
  const [ida, jan] = [await tokenOf('ida'), await tokenOf('jan')];
  const params = { name: 'get_report', arguments: { a: 1 } };
  const asked = (await modernPost(ida, params)).json.result;
  assert.equal(asked.resultType, 'input_required');
  assert.equal(asked.inputRequests.approve.method, 'elicitation/create');
  const back = { requestState: asked.requestState, inputResponses: { approve: { action: 'accept' } } };
  const refused = async (token, changed) => {
    const answer = await modernPost(token, { ...params, ...back, ...changed });
    return problemOf(answer)?.code;
  };
  assert.equal(await refused(jan, {}), 'REQ-020', 'another principal');
  assert.equal(await refused(ida, { arguments: { a: 2 } }), 'REQ-020', 'another call');
  const bent = asked.requestState.replace(/.$/, (c) => (c === 'A' ? 'B' : 'A'));
  assert.equal(await refused(ida, { requestState: bent }), 'REQ-020', 'edited');
  assert.equal(await refused(ida, {}), 'CNS-001', 'good, and nobody has answered');
  assert.equal(await refused(ida, {}), 'REQ-020', 'used');
  const again = (await modernPost(ida, params)).json.result;
  const id = again._meta['countersign/refusal'].facts.approval;
  await gateway.cli('approvals', 'approve', id);
  const { requestState } = again;
  const ran = await modernPost(ida, { ...params, ...back, requestState });
  assert.equal(textOf(ran), 'ran get_report');
  const forwarded = own.seen.at(-1).message.params;
  assert.deepEqual([forwarded.requestState, forwarded.inputResponses], [undefined, undefined]);
});

test('a client that cannot open links gets the denial with the link', async () => {
  const answer = await modernPost(await tokenOf('kim'), { name: 'get_report', arguments: {} }, {});
  assert.equal(answer.json.result.isError, true);
  assert.ok(problemOf(answer).next.url.startsWith(PAGE));
});

test('a 2025-11-25 client that can open links gets -32042', async () => {
  const token = await tokenOf('lena', 'main');
  const echo = { name: 'echo', arguments: { message: 'hi' } };
  const able = await legacyClient(url('main'), { token, capabilities: canOpenLinks });
  const unable = await legacyClient(url('main'), { token });
  try {
    const error = await able.callTool(echo).then(assert.fail, (thrown) => thrown);
    assert.equal(error.code, -32042);
    const [elicitation] = error.data?.elicitations ?? error.elicitations;
    assert.equal(elicitation.mode, 'url');
    assert.ok(elicitation.url.startsWith(PAGE));
    const denied = await unable.callTool(echo);
    assert.equal(problemOf(denied).facts.approval, elicitation.elicitationId, 'the same request');
    await gateway.cli('approvals', 'approve', elicitation.elicitationId);
    assert.equal(textOf(await able.callTool(echo)), 'Echo: hi');
  } finally {
    await Promise.all([able.close(), unable.close()]);
  }
});

test("a server's own question is not charged as an answer, and its answer is another call", async () => {
  const token = await tokenOf('mila');
  const question = {
    resultType: 'input_required',
    inputRequests: { name: { method: 'elicitation/create', params: { message: 'who?' } } },
    requestState: 'theirs',
  };
  own.respond(({ params }) =>
    params.inputResponses ? result('hello') : JSON.stringify(question),
  );
  try {
    const params = { name: 'ask_back', arguments: {} };
    const asked = (await modernPost(token, params)).json.result;
    assert.equal(asked.resultType, 'input_required');
    assert.equal(asked.requestState, 'theirs', 'passed through');
    assert.equal(asked._meta['countersign/charged'], 'no');
    assert.equal(asked._meta['countersign/receipt'], undefined);
    const inputResponses = { name: { action: 'accept', content: { name: 'Mila' } } };
    const done = await modernPost(token, { ...params, inputResponses, requestState: 'theirs' });
    assert.equal(textOf(done), 'hello');
    const { items } = await gateway.cli('calls', 'list', '--limit', '2');
    assert.deepEqual(items.map((call) => call.state), ['captured', 'released']);
    assert.notEqual(items[0].call_digest, items[1].call_digest);
  } finally {
    own.respond();
  }
});

test('a grant that is revoked during a call refuses the next one', async () => {
  const made = await grant(gateway, issuer, {
    server: 'own', subject: 'nora', tools: ['get_thing'], 'per-call': '1 USD',
  });
  const call = await calling('nora');
  let revoked;
  own.respond(async ({ params }) => {
    revoked ??= await gateway.cli('grant', 'revoke', made.grant.id);
    return result(`ran ${params.name}`);
  });
  try {
    assert.equal(textOf(await call()), 'ran get_thing', 'it had started');
    assert.equal(revoked.status, 'revoked');
    assert.equal(problemOf(await call()).code, 'CNS-003');
  } finally {
    own.respond();
  }
});

test('a budget set at run time says what it would do, and is durable', async () => {
  await gateway.cli(
    'budget', 'set', 'one-call', '--limit', '5 USD', '--window', 'month@Europe/Berlin', '--agent',
    'web-agent', '--warn', '80',
  );
  const shown = await gateway.cli('budget', 'explain', '6 USD', '--agent', 'web-agent');
  const budget = shown.items.find((item) => item.name === 'one-call');
  assert.deepEqual([budget.state, budget.remaining, budget.is_set], ['refuses', '5 USD', true]);
  await gateway.kill9();
  await gateway.restart();
  const { items } = await gateway.cli('budget', 'show', '--agent', 'web-agent');
  assert.ok(items.some((item) => item.name === 'one-call'), 'durable');
  await gateway.cli('budget', 'remove', 'one-call');
});

test('a grant with a purpose and rules for arguments covers those alone', async () => {
  await grant(gateway, issuer, {
    server: 'own', subject: 'olga', tools: ['get_thing'], 'per-call': '1 USD',
    'purpose-code': 'trip', argument: '/city=["Oslo"]',
  });
  const token = await tokenOf('olga');
  const call = async (city, purpose) => {
    const meta = { 'countersign/intent': { intent: 'read', purpose } };
    return post(url('own'), callOf('get_thing', { city }, meta), bearer(token));
  };
  assert.equal(problemOf(await call('Oslo', 'fun')).code, 'CNS-011');
  assert.equal(problemOf(await call('Bern', 'trip')).code, 'CNS-015');
  assert.equal(textOf(await call('Oslo', 'trip')), 'ran get_thing');
});

test('the log verifies, and holds no argument and no name', async () => {
  const verified = await gateway.cliRaw('audit', 'verify');
  assert.equal(verified.code, 0, verified.stdout + verified.stderr);
  const { stdout } = await gateway.cliRaw('audit', 'tail');
  for (const secret of ['Oslo', 'not this month', 'anna']) assert.ok(!stdout.includes(secret));
});
