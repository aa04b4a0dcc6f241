// `countersign connect`: stock desktop clients over stdio, a paying bridge, a gateway, a real chain.

import assert from 'node:assert/strict';
import http from 'node:http';
import https from 'node:https';
import { chmodSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, test } from 'node:test';

import { startChain } from './lib/chain.mjs';
import { Home, legacyStdio, modernStdio } from './lib/connect.mjs';
import { startEverything } from './lib/everything.mjs';
import {
  Parts, assets, builtinFacilitator, facilitatorEnv, grant, issuerConfig, problemOf, textOf,
} from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { legacyClient, modernClient } from './lib/mcpclients.mjs';
import { freePort, start, until } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import { startSandbox } from './lib/sandbox.mjs';
import { startOwnServer } from './lib/tap.mjs';

const CENT = 10_000n;
const parts = new Parts();
let chain, sandbox, own, issuer, gateway, url;

/** What `connect` is to issuers that read such a document. */
const DOCUMENT = {
  client_id: 'https://client.example/connect.json',
  client_name: 'countersign connect',
  application_type: 'native',
  redirect_uris: ['http://127.0.0.1/callback'],
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  token_endpoint_auth_method: 'none',
};

const poor = `0x${'11'.repeat(32)}`;

const lightning = () => ({ kind: 'lightning', url: sandbox.lightning });

const ran = (message) =>
  JSON.stringify({
    resultType: 'complete', content: [{ type: 'text', text: `ran ${message.params.name}` }],
  });

before(() =>
  parts.starting(async () => {
    const port = await freePort();
    url = (server) => `http://127.0.0.1:${port}/${server}/mcp`;
    const everything = await parts.keep('everything', startEverything());
    chain = await parts.keep('chain', startChain());
    sandbox = await parts.keep('sandbox', startSandbox());
    const tools = ['get_free', 'get_paid', 'get_either', 'get_asked', 'get_slow', 'get_scoped'].map((name) => ({
      name, inputSchema: { type: 'object' },
    }));
    own = await parts.keep('own', startOwnServer({ tools, answer: ran }));
    issuer = await parts.keep('issuer', startIssuer({
      resources: ['main', 'own'].map(url),
      natives: [{ id: 'connect-e2e', redirectUri: 'http://127.0.0.1/callback' }],
      registers: true,
      documents: { [DOCUMENT.client_id]: DOCUMENT },
    }));
    gateway = await parts.keep('gateway', startGateway({
      port,
      env: facilitatorEnv(chain),
      config: {
        listen: `127.0.0.1:${port}`,
        sandbox: true,
        issuers: [issuerConfig(issuer)],
        assets,
        consent: { approve_url: `http://127.0.0.1:${port}/approve/{approval}` },
        limits: { open_quotes_per_principal: 1000, asks_per_agent_per_hour: 200 },
        rails: {
          x402: { pay_to: chain.merchant.address, facilitator: builtinFacilitator(chain) },
          l402: { source: { sandbox: sandbox.lightning } },
        },
        servers: {
          main: { upstream: everything.url, default: { price: 'free', intent: 'read' } },
          own: {
            upstream: own.url,
            tools: {
              get_free: { price: 'free' },
              get_paid: { price: '0.01 USDC' },
              get_either: { price: ['0.01 USDC', '16 sat'] },
              get_asked: { price: '0.01 USDC', consent: 'required' },
              get_slow: { price: '0.01 USDC', deadline: '30s' },
              get_scoped: { price: 'free', scopes: ['pay:spend'] },
            },
          },
        },
      },
    }));
    await grant(gateway, issuer, { server: 'own', tools: ['get_free', 'get_paid', 'get_either', 'get_slow'] });
    await grant(gateway, issuer, { server: 'main' });
    await grant(gateway, issuer, { server: 'own', subject: 'gina', agent: 'connect-e2e' });
  }),
);
after(() => parts.stop());

/** A user with a home, a token and wallets; ended after the test. */
async function user(
  t,
  { subject = 'alice', server = 'own', key = chain.payer.key, wallet, args = [] } = {},
) {
  const home = new Home();
  t.after(() => home.stop());
  const wallets = [wallet ?? { kind: 'evm', private_key: key }];
  const env = { E2E_TOKEN: await issuer.userToken(subject, url(server)) };
  const all = ['--bearer', 'env:E2E_TOKEN', '--wallet', home.wallet(wallets), ...args];
  return { home, how: home.command(url(server), all, env) };
}

async function ending(t, client) {
  t.after(() => client.close());
  return client;
}

test('a legacy client sees the server as it is: lists, resources, progress, questions', async (t) => {
  const { how } = await user(t, { server: 'main' });
  const asked = [];
  const client = await ending(t, await legacyStdio(how, {
    capabilities: { sampling: {}, elicitation: { form: {} }, roots: {} },
  }));
  const { CreateMessageRequestSchema } = await import('@modelcontextprotocol/sdk/types.js');
  client.setRequestHandler(CreateMessageRequestSchema, async ({ params }) => {
    asked.push(params);
    return { model: 'none', role: 'assistant', content: { type: 'text', text: 'from the client' } };
  });
  const { tools } = await client.listTools();
  assert.ok(tools.some(({ name }) => name === 'echo'));
  assert.match(textOf(await client.callTool({ name: 'echo', arguments: { message: 'hei' } })), /hei/);
  const { resources } = await client.listResources();
  const { contents } = await client.readResource({ uri: resources[0].uri });
  assert.equal(contents[0].uri, resources[0].uri);
  const steps = [];
  await client.callTool(
    { name: 'trigger-long-running-operation', arguments: { duration: 1, steps: 3 } },
    undefined,
    { onprogress: (step) => steps.push(step.progress) },
  );
  assert.deepEqual(steps, [1, 2, 3]);
  const sampled = await client.callTool({
    name: 'trigger-sampling-request', arguments: { prompt: 'say something', maxTokens: 10 },
  });
  assert.equal(asked.length, 1);
  assert.match(textOf(sampled), /from the client/);
  assert.equal((await client.callTool({ name: 'no-such-tool' })).isError, true);
});

for (const [era, open] of [['legacy', legacyStdio], ['modern', modernStdio]]) {
  test(`a ${era} client calls a free tool, and a paid one, which is paid once`, async (t) => {
    const { how } = await user(t);
    const client = await ending(t, await open(how));
    const { tools } = await client.listTools();
    assert.equal(tools.length, 6);
    assert.equal(textOf(await client.callTool({ name: 'get_free', arguments: {} })), 'ran get_free');
    const before_ = await chain.balance(chain.payer.address);
    const paid = await client.callTool({ name: 'get_paid', arguments: { era } });
    assert.equal(textOf(paid), 'ran get_paid');
    assert.ok(paid._meta['countersign/receipt']);
    assert.equal(before_ - (await chain.balance(chain.payer.address)), CENT);
    assert.match(client.said(), /paid 0\.01 USDC over x402/);
  });
}

test('a paid call over Lightning, within its cap and not above it', async (t) => {
  const rich = await user(t, { wallet: lightning(), args: ['--max-price', '20 sat'] });
  const client = await ending(t, await legacyStdio(rich.how));
  const ran_ = await client.callTool({ name: 'get_either', arguments: { n: 1 } });
  assert.equal(textOf(ran_), 'ran get_either');
  const poor = await user(t, { wallet: lightning(), args: ['--max-price', '15 sat'] });
  const capped = await ending(t, await legacyStdio(poor.how));
  const denied = await capped.callTool({ name: 'get_either', arguments: { n: 2 } });
  assert.equal(denied.isError, true);
  assert.match(textOf(denied), /above the cap/);
  assert.equal(denied._meta['countersign/charged'], 'no');
});

const approvalIn = (text) => /appr_[0-9a-f]{32}/.exec(text)?.[0];

/** What was paid while this ran, in cents. */
async function costing(work) {
  const first = await chain.balance(chain.payer.address);
  const value = await work();
  return { value, cents: (first - (await chain.balance(chain.payer.address))) / CENT };
}

/** A tool that answers only once it is let. */
function holding(t) {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  own.respond(async (message) => {
    if (message.params.name === 'get_slow') await held;
    return ran(message);
  });
  t.after(() => {
    release();
    own.respond();
  });
  return release;
}

test('a call that needs an approval says where, waits, and runs when it is given', async (t) => {
  const { how } = await user(t, { subject: 'anna' });
  const client = await ending(t, await legacyStdio(how));
  const { value, cents } = await costing(async () => {
    const calling = client.callTool({ name: 'get_asked', arguments: {} });
    const id = await until('the page is said', () => approvalIn(client.said()));
    await gateway.cli('approvals', 'approve', id);
    return calling;
  });
  assert.equal(textOf(value), 'ran get_asked');
  assert.equal(cents, 1n);
});

test('a legacy client that can show links is asked to, and its user may decline', async (t) => {
  const { ElicitRequestSchema } = await import('@modelcontextprotocol/sdk/types.js');
  const { how } = await user(t, { subject: 'bert' });
  const client = await ending(t, await legacyStdio(how, { capabilities: { elicitation: { url: {} } } }));
  const shown = [];
  client.setRequestHandler(ElicitRequestSchema, async ({ params }) => {
    shown.push(params);
    if (shown.length === 1) return { action: 'decline' };
    await gateway.cli('approvals', 'approve', approvalIn(params.url));
    return { action: 'accept' };
  });
  const call = () => client.callTool({ name: 'get_asked', arguments: {} });
  assert.equal(problemOf(await call()).code, 'CNS-001', 'declined: as the server says it');
  assert.equal(textOf(await call()), 'ran get_asked');
  assert.deepEqual(shown.map(({ mode }) => mode), ['url', 'url']);
});

test('a modern client is asked through its own retry, and waited for after it', async (t) => {
  const { how } = await user(t, { subject: 'cora' });
  const client = await ending(t, await modernStdio(how, { capabilities: { elicitation: { url: {} } } }));
  client.setRequestHandler('elicitation/create', async ({ params }) => {
    // The person answers only after the client has come back.
    setTimeout(() => gateway.cli('approvals', 'approve', approvalIn(params.url)), 500);
    return { action: 'accept' };
  });
  assert.equal(textOf(await client.callTool({ name: 'get_asked', arguments: {} })), 'ran get_asked');
});

test('a denial reaches the agent, and nothing is paid', async (t) => {
  const { how } = await user(t, { subject: 'dora' });
  const client = await ending(t, await legacyStdio(how));
  const { value, cents } = await costing(async () => {
    const calling = client.callTool({ name: 'get_asked', arguments: {} });
    const id = await until('the page is said', () => approvalIn(client.said()));
    await gateway.cli('approvals', 'deny', id, '--reason', 'not today');
    return calling;
  });
  assert.equal(problemOf(value).code, 'CNS-009');
  assert.match(textOf(value), /not today/);
  assert.equal(cents, 0n);
});

test('a second challenge ends the call', async (t) => {
  const { how, home } = await user(t, { key: poor });
  const client = await ending(t, await legacyStdio(how));
  const ended = await client.callTool({ name: 'get_paid', arguments: { by: 'poor' } });
  assert.equal(ended.isError, true);
  assert.match(textOf(ended), /^refused: PAY-\d+.*you were not charged/);
  assert.equal(ended.structuredContent, undefined, 'nobody is asked to pay again');
  assert.deepEqual(home.spent().map(({ outcome }) => outcome), ['paying', 'not_charged']);
});

test('an hour has its ceiling, over restarts; what is spent is written down', async (t) => {
  const { how, home } = await user(t, { args: ['--max-per-hour', '0.01 USD'] });
  const call = (client, n) => client.callTool({ name: 'get_paid', arguments: { secret_n: n } });
  const first = await legacyStdio(how);
  const paid = await call(first, 1);
  assert.equal(textOf(paid), 'ran get_paid');
  assert.match(textOf(await call(first, 2)), /too much was spent in this hour/);
  await first.close();
  const again = await ending(t, await legacyStdio(how));
  assert.match(textOf(await call(again, 3)), /too much was spent in this hour/);
  const lines = home.spent();
  assert.deepEqual(lines.map(({ outcome }) => outcome), ['paying', 'answered']);
  const receipt = JSON.parse(
    Buffer.from(paid._meta['countersign/receipt'].split('.')[1], 'base64url').toString(),
  );
  assert.equal(lines[1].receipt, receipt.call);
  assert.deepEqual(
    [lines[1].host, lines[1].tool, lines[1].minor, lines[1].asset], ['127.0.0.1', 'get_paid', '10000', 'USDC'],
  );
  assert.doesNotMatch(JSON.stringify(lines), /secret_n/);
});

test('killed between payment and answer, and started again: paid once, run once', async (t) => {
  const release = holding(t);
  const { how, home } = await user(t);
  const call = (client) => client.callTool({ name: 'get_slow', arguments: { kill: 1 } });
  const { value, cents } = await costing(async () => {
    const first = await legacyStdio(how);
    const lost = call(first).catch((error) => error);
    await until('the tool runs', () => own.calls('get_slow') === 1);
    process.kill(first.pid, 'SIGKILL');
    await lost;
    assert.deepEqual(home.spent().map(({ outcome }) => outcome), ['paying']);
    const again = await ending(t, await legacyStdio(how));
    const calling = call(again);
    setTimeout(release, 500);
    return calling;
  });
  assert.equal(textOf(value), 'ran get_slow');
  assert.equal(cents, 1n);
  assert.equal(own.calls('get_slow'), 1);
  assert.deepEqual(home.spent().map(({ outcome }) => outcome), ['paying', 'answered']);
});

test('interrupted while a call pays: it is finished and kept before the process ends', async (t) => {
  const release = holding(t);
  const { how, home } = await user(t);
  const ran_ = own.calls('get_slow');
  const client = await legacyStdio(how);
  const lost = client.callTool({ name: 'get_slow', arguments: { interrupt: 1 } }).catch((error) => error);
  await until('the tool runs', () => own.calls('get_slow') === ran_ + 1);
  const { pid } = client;
  process.kill(pid, 'SIGINT');
  release();
  await until('the process ends', () => !isAlive(pid));
  await lost;
  assert.deepEqual(home.spent().map(({ outcome }) => outcome), ['paying', 'answered']);
  await client.close();
});

function isAlive(pid) {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** `connect` without a token, its user at a browser. */
async function visitor(t, { login, args = [] }) {
  const home = new Home();
  t.after(() => home.stop());
  const wallet = home.wallet([{ kind: 'evm', private_key: chain.payer.key }]);
  return { home, how: home.command(url('own'), ['--wallet', wallet, ...args]), login };
}

const tokens = (home) => {
  const dir = path.join(home.dir, 'state', 'countersign', 'tokens');
  return readdirSync(dir).map((name) => path.join(dir, name));
};

/** Signs in wherever stderr says so, for as long as the client opens. */
async function opening({ how, login }, open = legacyStdio) {
  const pages = [];
  const client = open(how, {
    hear: (text) => {
      for (const [, page] of text.matchAll(/sign in at (\S+)/g)) {
        pages.push(page);
        issuer.visit(page, login).catch((error) => pages.push(error));
      }
    },
  });
  return Object.assign(await client, { pages });
}

for (const [way, args, id] of [
  ['a client that the issuer knows', ['--client-id', 'connect-e2e'], 'connect-e2e'],
  ['a client that it registers', []],
  ['a client whose document it reads', ['--client-metadata', DOCUMENT.client_id], DOCUMENT.client_id],
]) {
  test(`who has no token signs in, as ${way}; the token is kept, refreshed, and shown to nobody`, async (t) => {
    const guest = await visitor(t, { login: 'emil', args });
    const client = await opening(guest);
    assert.equal(client.pages.length, 1, client.said());
    const page = new URL(client.pages[0]).searchParams;
    if (id) assert.equal(page.get('client_id'), id);
    assert.equal(page.get('resource'), url('own'));
    assert.equal(page.get('code_challenge_method'), 'S256');
    assert.match(page.get('redirect_uri'), /^http:\/\/127\.0\.0\.1:\d+\/callback$/);
    assert.equal((await client.listTools()).tools.length, 6);
    await client.close();
    const [file] = tokens(guest.home);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const kept = JSON.parse(readFileSync(file, 'utf8'));
    assert.ok(!client.said().includes(kept.access_token) && kept.refresh_token);
    // Nobody is asked again, also not when the token has ended.
    writeFileSync(file, JSON.stringify({ ...kept, access_token: `${kept.access_token}x` }));
    const again = await ending(t, await opening(guest));
    assert.equal((await again.listTools()).tools.length, 6);
    assert.deepEqual(again.pages, []);
    assert.notEqual(JSON.parse(readFileSync(file, 'utf8')).access_token, kept.access_token);
  });
}

test('a token with too little scope is asked for with more, once, and the call runs', async (t) => {
  const guest = await visitor(t, { login: 'gina', args: ['--client-id', 'connect-e2e'] });
  await (await opening(guest)).close();
  const [file] = tokens(guest.home);
  const kept = JSON.parse(readFileSync(file, 'utf8'));
  const { access_token } = await issuer.userTokens('gina', url('own'), 'mcp:tools');
  writeFileSync(file, JSON.stringify({ ...kept, access_token }));
  const client = await ending(t, await opening(guest));
  assert.equal(client.pages.length, 0, 'it is a good token');
  const ran_ = await client.callTool({ name: 'get_scoped', arguments: {} });
  assert.equal(textOf(ran_), 'ran get_scoped', client.said());
  assert.equal(client.pages.length, 1);
  assert.ok(new URL(client.pages[0]).searchParams.get('scope').split(' ').includes('pay:spend'));
});

test('signed in before, from a terminal, a modern client asks nobody', async (t) => {
  const { home, how, login } = await visitor(t, { login: 'fred' });
  const first = start(how.command, [...how.args, '--sign-in'], { env: how.env });
  const page = await until('the page is said', () => /sign in at (\S+)/.exec(first.stderr())?.[1]);
  await issuer.visit(page, login);
  assert.equal((await first.ended).code, 0, first.output());
  assert.equal(tokens(home).length, 1);
  const client = await ending(t, await modernStdio(how));
  assert.equal((await client.listTools()).tools.length, 6);
});

/** `connect --listen`, running: {url, token, part}. */
async function listening(t, { how }) {
  const part = start(how.command, [...how.args, '--listen', '127.0.0.1:0'], { env: how.env });
  t.after(() => part.stop());
  const [, at, token] = await until(
    'it says where it is',
    () => /served at (\S+)[^]*Bearer (\S+)/.exec(part.stderr()),
    { part },
  );
  return { at, token, part };
}

test('over HTTP it serves who shows the token, in both eras, and stock clients pay', async (t) => {
  const { at, token } = await listening(t, await user(t));
  for (const open of [legacyClient, modernClient]) {
    const client = await ending(t, await open(at, { token }));
    assert.equal((await client.listTools()).tools.length, 6);
    const { value, cents } = await costing(() =>
      client.callTool({ name: 'get_paid', arguments: { http: open.name } }),
    );
    assert.equal(textOf(value), 'ran get_paid');
    assert.equal(cents, 1n);
  }
});

test('over HTTP it serves nobody without the token, and no page of another origin', async (t) => {
  const { at, token } = await listening(t, await user(t));
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list', params: {} });
  const ask = (headers) =>
    new Promise((resolve, reject) => {
      const all = { 'content-type': 'application/json', accept: 'application/json', ...headers };
      http.request(at, { method: 'POST', headers: all }, (answer) => resolve(answer.resume().statusCode))
        .on('error', reject)
        .end(body);
    });
  const shown = { authorization: `Bearer ${token}` };
  assert.equal(await ask(shown), 200);
  assert.equal(await ask({}), 401);
  assert.equal(await ask({ authorization: `Bearer ${token}x` }), 401);
  assert.equal(await ask({ ...shown, host: 'evil.example' }), 403);
  assert.equal(await ask({ ...shown, host: `evil.example:${new URL(at).port}` }), 403);
  assert.equal(await ask({ ...shown, origin: 'https://evil.example' }), 403);
  assert.equal(await ask({ ...shown, origin: 'null' }), 403);
  const { code, stderr } = await run(await user(t), ['--listen', '0.0.0.0:0']);
  assert.equal(code, 2);
  assert.match(stderr, /not an address of this machine/);
});

async function run({ how }, args) {
  const part = start(how.command, [...how.args, ...args], { env: how.env });
  const { code } = await part.ended;
  return { code, stderr: part.stderr() };
}

/**
 * A double of LND's REST interface, as published, with the sandbox's wallet behind it: real TLS, a
 * certificate of its own making, a macaroon in a file.
 */
async function startLndDouble(t) {
  const made = await pythonJson('certificate.py');
  const seen = [];
  const server = https.createServer({ key: made.key, cert: made.cert }, async (request, response) => {
    let body = '';
    for await (const part of request) body += part;
    seen.push({ path: request.url, macaroon: request.headers['grpc-metadata-macaroon'] });
    const payment_preimage = await sandbox.pay(JSON.parse(body).payment_request);
    response.end(`${JSON.stringify({ result: { status: 'SUCCEEDED', payment_preimage } })}\n`);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return { url: `https://127.0.0.1:${server.address().port}`, cert: made.cert, seen };
}

test('an LND double pays over TLS, known by its certificate; under another one nothing leaves', async (t) => {
  const [node, other] = [await startLndDouble(t), await startLndDouble(t)];
  const keep = new Home();
  t.after(() => keep.stop());
  const file = (name, content) => {
    const at = path.join(keep.dir, name);
    writeFileSync(at, content);
    chmodSync(at, 0o600);
    return at;
  };
  const wallet = (certificate) => ({
    kind: 'lnd',
    url: node.url,
    macaroon: `file:${file('pay.macaroon', Buffer.from([2, 1, 3, 255]))}`,
    certificate: file('tls.cert', certificate),
  });
  const args = ['--max-price', '20 sat'];
  const right = await ending(t, await legacyStdio((await user(t, { wallet: wallet(node.cert), args })).how));
  const paid = await right.callTool({ name: 'get_either', arguments: { by: 'lnd' } });
  assert.equal(textOf(paid), 'ran get_either');
  assert.deepEqual(node.seen, [{ path: '/v2/router/send', macaroon: '020103ff' }]);
  const wrong = await ending(t, await legacyStdio((await user(t, { wallet: wallet(other.cert), args })).how));
  const denied = await wrong.callTool({ name: 'get_either', arguments: { by: 'stranger' } });
  assert.match(textOf(denied), /the wallet did not pay/);
  assert.equal(node.seen.length, 1);
});

const inspector = fileURLToPath(
  new URL('node_modules/@modelcontextprotocol/inspector/cli/build/cli.js', import.meta.url),
);

/** The official inspector with a desktop client's configuration: its answer, parsed. */
async function inspect(config, ...args) {
  const part = start(process.execPath, [inspector, '--cli', '--config', config, '--server', 'own', ...args]);
  const { code } = await part.ended;
  assert.equal(code, 0, part.output());
  return JSON.parse(part.stdout());
}

test('the official inspector lists, calls a free tool, and pays, by a desktop configuration', async (t) => {
  const { how, home } = await user(t);
  const config = path.join(home.dir, 'mcp.json');
  const { command, args, env } = how;
  writeFileSync(config, JSON.stringify({ mcpServers: { own: { command, args, env } } }));
  const { tools } = await inspect(config, '--method', 'tools/list');
  assert.equal(tools.length, 6);
  const call = (tool) => inspect(config, '--method', 'tools/call', '--tool-name', tool);
  assert.equal(textOf(await call('get_free')), 'ran get_free');
  const { value, cents } = await costing(() => call('get_paid'));
  assert.equal(textOf(value), 'ran get_paid');
  assert.equal(cents, 1n);
});
