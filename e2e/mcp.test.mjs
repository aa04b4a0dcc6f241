// MCP through the gateway: both eras, stock clients and servers, and what must not pass.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { startEverything } from './lib/everything.mjs';
import {
  Parts,
  assets,
  call,
  callOf,
  issuerConfig,
  post,
  postRaw,
  problemOf,
  textOf,
} from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { legacyClient, modernClient } from './lib/mcpclients.mjs';
import { freePort, until } from './lib/process.mjs';
import { startPythonServer } from './lib/pythonserver.mjs';
import { startSandbox } from './lib/sandbox.mjs';
import { startOwnServer, startTap } from './lib/tap.mjs';
import { bearer, recordingFetch } from './lib/wire.mjs';
import { challengeOf } from './lib/x402http.mjs';

const PAYEE = '0x90F79bf6EB2c4f870365E785982E1f101E93b906';
const free = { price: 'free', identity: 'anonymous' };
const schema = { type: 'object' };
const routed = {
  type: 'object',
  properties: {
    region: { type: 'string', 'x-mcp-header': 'Region' },
    other: { type: 'string' },
  },
};

const parts = new Parts();
let everything, snake, sandbox, tap, own, issuer, gateway, url, alice, bob;

before(() =>
  parts.starting(async () => {
    const port = await freePort();
    url = (server) => `http://127.0.0.1:${port}/${server}/mcp`;
    everything = await parts.keep('everything', startEverything());
    snake = await parts.keep('snake', startPythonServer());
    sandbox = await parts.keep('sandbox', startSandbox());
    tap = await parts.keep(
      'tap',
      startTap(() => everything.url),
    );
    own = await parts.keep(
      'own',
      startOwnServer({
        tools: ['plain', 'guarded', 'priced', 'routed'].map((name) => ({
          name,
          inputSchema: name === 'routed' ? routed : schema,
          'x-own': 1,
        })),
      }),
    );
    const resources = ['main', 'strict', 'direct', 'modern', 'own'].map(url);
    issuer = await parts.keep('issuer', startIssuer({ resources }));
    gateway = await parts.keep('gateway', startGateway({ port, config: configuration }));
    alice = Object.fromEntries(
      await Promise.all(
        ['main', 'strict', 'own'].map(async (server) => [
          server,
          await issuer.userToken('alice', url(server)),
        ]),
      ),
    );
    bob = { strict: await issuer.userToken('bob', url('strict')) };
  }),
);

after(() => parts.stop());

const configuration = ({ port }) => ({
  listen: `127.0.0.1:${port}`,
  sandbox: true,
  issuers: [issuerConfig(issuer)],
  assets,
  rails: { x402: { pay_to: PAYEE, facilitator: { sandbox: sandbox.facilitator } } },
  servers: {
    main: {
      upstream: tap.url,
      relay: { anonymous: true },
      tools: {
        echo: free,
        'trigger-long-running-operation': free,
        'trigger-elicitation-request': free,
        'get-sum': { price: 'free' },
        'get-structured-content': { price: '0.01 USDC', consent: 'none' },
      },
    },
    strict: { upstream: tap.url, tools: { echo: { price: 'free' } } },
    snake: { upstream: snake.url, relay: { anonymous: true }, tools: { echo: free } },
    direct: { upstream: everything.url, relay: { anonymous: true }, tools: { 'get-sum': free } },
    modern: {
      upstream: sandbox.server,
      relay: { anonymous: true },
      tools: {
        status: free,
        get_report: free,
        get_forecast: { price: '0.01 USDC', identity: 'anonymous' },
      },
    },
    own: {
      upstream: own.url,
      relay: { anonymous: true },
      tools: {
        plain: free,
        routed: free,
        guarded: { price: 'free', scopes: ['mcp:call'] },
        priced: { price: '0.01 USDC', identity: 'anonymous' },
      },
    },
  },
});

const withClient = async (connecting, use) => {
  const client = await connecting;
  try {
    return await use(client);
  } finally {
    await client.close();
  }
};

test('every part of the sandbox says what it is', async () => {
  const { issuer: idp, facilitator, lightning } = sandbox;
  for (const at of [`${idp}/.well-known/openid-configuration`, `${facilitator}/supported`, `${lightning}/balances`]) {
    assert.equal((await (await fetch(at)).json()).sandbox, true, at);
  }
  await withClient(legacyClient(sandbox.server), async (client) => {
    for (const { name } of (await client.listTools()).tools) {
      const result = await client.callTool({ name, arguments: { city: 'Oslo', ms: 1 } });
      assert.match(textOf(result), /sandbox/, name);
    }
  });
});

describe('the legacy era, in front of server-everything', () => {
  test('a stock client initializes, lists and calls', () =>
    withClient(legacyClient(url('main')), async (client) => {
      assert.match(client.getServerVersion().name, /everything/);
      const { tools } = await client.listTools();
      // trigger-elicitation-request is there for clients that can be asked only.
      assert.deepEqual(tools.map((tool) => tool.name).sort(), [
        'echo',
        'get-structured-content',
        'get-sum',
        'trigger-long-running-operation',
      ]);
      const priced = tools.find((tool) => tool.name === 'get-structured-content');
      assert.deepEqual(priced._meta['countersign/price'].price, ['0.01 USDC']);
      assert.equal(priced.outputSchema, undefined, 'a client would validate challenges against it');
      const echo = tools.find((tool) => tool.name === 'echo');
      assert.equal(echo._meta?.['countersign/price'], undefined);

      const result = await client.callTool({ name: 'echo', arguments: { message: 'ça va — 🙂' } });
      assert.equal(result.content[0].text, 'Echo: ça va — 🙂');
      assert.ok(!result.isError);
    }));

  test('a tool that is not listed cannot be called', () =>
    withClient(legacyClient(url('main')), async (client) => {
      const earlier = tap.calls('get-env');
      await assert.rejects(client.callTool({ name: 'get-env', arguments: {} }), (error) => {
        assert.match(String(error), /REQ-015/);
        return true;
      });
      assert.equal(tap.calls('get-env'), earlier);
    }));

  test('what is not a tool call is relayed', () =>
    withClient(legacyClient(url('main')), async (client) => {
      await client.ping();
      assert.ok((await client.listPrompts()).prompts.length > 0);
      const { resources } = await client.listResources();
      const { contents } = await client.readResource({ uri: resources[0].uri });
      assert.equal(contents[0].uri, resources[0].uri);
      await client.setLoggingLevel('debug');
    }));

  test('progress arrives while the tool runs', () =>
    withClient(legacyClient(url('main')), async (client) => {
      const heard = [];
      const result = await client.callTool(
        { name: 'trigger-long-running-operation', arguments: { duration: 1.2, steps: 4 } },
        undefined,
        { onprogress: (progress) => heard.push({ at: Date.now(), ...progress }) },
      );
      const ended = Date.now();
      assert.ok(!result.isError, JSON.stringify(result));
      assert.deepEqual(
        heard.map(({ progress, total }) => [progress, total]),
        [
          [1, 4],
          [2, 4],
          [3, 4],
          [4, 4],
        ],
      );
      assert.ok(
        ended - heard[0].at > 500,
        `first progress ${ended - heard[0].at} ms before the end`,
      );
    }));

  test('the server asks the client in mid-call, and gets its answer', async () => {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } =
      await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const { ElicitRequestSchema } = await import('@modelcontextprotocol/sdk/types.js');
    const client = new Client(
      { name: 'asked', version: '1' },
      { capabilities: { elicitation: { form: {} } } },
    );
    const asked = [];
    client.setRequestHandler(ElicitRequestSchema, async ({ params }) => {
      asked.push(params.message);
      return { action: 'decline' };
    });
    await client.connect(new StreamableHTTPClientTransport(new URL(url('main'))));
    try {
      // The server registers this tool once it has seen the client's capabilities.
      const result = await client.callTool({ name: 'trigger-elicitation-request', arguments: {} });
      assert.equal(asked.length, 1);
      assert.match(JSON.stringify(result.content), /declin/i);
    } finally {
      await client.close();
    }
  });

  test('a session that the server forgot is renewed unseen', async () => {
    const { fetch, wire } = recordingFetch();
    const client = await legacyClient(url('strict'), { token: alice.strict, fetch });
    try {
      const say = (message) => client.callTool({ name: 'echo', arguments: { message } });
      assert.equal((await say('before')).content[0].text, 'Echo: before');

      const { port } = everything;
      await everything.kill9();
      everything = await parts.keep('everything', startEverything({ port }));
      const earlier = tap.seen.length;

      assert.equal((await say('after')).content[0].text, 'Echo: after');
      const { tools } = await client.listTools();
      assert.deepEqual(
        tools.map((tool) => tool.name),
        ['echo'],
      );
      const since = tap.seen.slice(earlier);
      const opened = since.filter(({ message }) => message?.method === 'initialize');
      const told = since.map(({ method, message, status, headers }) =>
        [message?.method ?? method, status, headers['mcp-session-id']].join(' '),
      );
      assert.equal(opened.length, 1, told.join(', '));
      const later = tap.seen
        .slice(earlier)
        .filter(({ message }) => message?.params?.name === 'echo');
      const sessions = later.map(({ headers }) => headers['mcp-session-id']);
      assert.equal(new Set(sessions).size, sessions.length, 'the forgotten one, then the new one');
      const seen = new Set(wire.map(({ headers }) => headers['mcp-session-id']).filter(Boolean));
      assert.equal(seen.size, 1, 'the client keeps its session');
      assert.ok(wire.every(({ method, status }) => status < 400 || method === 'GET'));
    } finally {
      await client.close();
    }
  });

  test('so is one of a server of the Python SDK, and one is opened for who brings none', () =>
    withClient(legacyClient(url('snake')), async (client) => {
      const say = (message) => client.callTool({ name: 'echo', arguments: { message } });
      assert.equal((await say('before')).content[0].text, 'Echo: before');
      const { port } = snake;
      await snake.kill9();
      snake = await parts.keep('snake', startPythonServer({ port }));
      assert.equal((await say('after')).content[0].text, 'Echo: after');
      assert.deepEqual((await client.listTools()).tools.map(({ name }) => name), ['echo']);

      const alone = (message) => post(url('snake'), callOf('echo', { message }));
      assert.equal(textOf(await alone('once')), 'Echo: once');
      await snake.kill9();
      snake = await parts.keep('snake', startPythonServer({ port }));
      assert.equal(textOf(await alone('again')), 'Echo: again');
    }));

  describe('a session belongs to its principal', () => {
    let session, client;
    before(async () => {
      client = await legacyClient(url('strict'), { token: alice.strict });
      session = client.transport.sessionId;
    });
    after(() => client?.close());

    const list = { jsonrpc: '2.0', id: 1, method: 'tools/list' };
    const refused = async (body, headers) => {
      const earlier = tap.seen.length;
      const answer = await post(url('strict'), body, headers);
      assert.equal(answer.status, 404, answer.text);
      assert.equal(problemOf(answer)?.code, 'REQ-012', answer.text);
      assert.equal(tap.seen.length, earlier, 'nothing reaches the server');
    };

    test('whose requests pass', async () => {
      const headers = { ...bearer(alice.strict), 'mcp-session-id': session };
      assert.equal((await post(url('strict'), list, headers)).status, 200);
    });
    test('somebody else lists', () =>
      refused(list, { ...bearer(bob.strict), 'mcp-session-id': session }));
    test('somebody else calls', () =>
      refused(callOf('echo', { message: 'mine?' }), {
        ...bearer(bob.strict),
        'mcp-session-id': session,
      }));
    test('one that never was', () =>
      refused(callOf('echo', { message: 'x' }), {
        ...bearer(alice.strict),
        'mcp-session-id': 'made-up',
      }));
    test('somebody else ends it', async () => {
      const headers = { ...bearer(bob.strict), 'mcp-session-id': session };
      const answer = await fetch(url('strict'), { method: 'DELETE', headers });
      assert.equal(answer.status, 404);
    });
    test('somebody else listens', async () => {
      const headers = { ...bearer(bob.strict), 'mcp-session-id': session, accept: 'text/event-stream' };
      const earlier = tap.seen.length;
      const answer = await fetch(url('strict'), { headers });
      assert.equal(answer.status, 404);
      assert.equal((await answer.json()).error.data.code, 'REQ-012');
      assert.equal(tap.seen.length, earlier);
    });
    test('another server of the gateway', async () => {
      const headers = { ...bearer(alice.main), 'mcp-session-id': session };
      assert.equal((await post(url('main'), list, headers)).status, 404);
    });
    test('until its owner ends it', async () => {
      await client.transport.terminateSession();
      await refused(list, { ...bearer(alice.strict), 'mcp-session-id': session });
    });
  });

  test('one principal keeps so many event streams open', async () => {
    const ended = new AbortController();
    const carol = bearer(await issuer.userToken('carol', url('strict')));
    const dave = bearer(await issuer.userToken('dave', url('strict')));
    const listen = async (who) => {
      const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'x', version: '1' } };
      const opened = await post(url('strict'), { jsonrpc: '2.0', id: 1, method: 'initialize', params }, who);
      const headers = {
        ...who,
        'mcp-session-id': opened.headers.get('mcp-session-id'),
        accept: 'text/event-stream',
      };
      return fetch(url('strict'), { headers, signal: ended.signal });
    };
    // Kept: fetch closes the connection of an answer that is garbage.
    const streams = [];
    for (let n = 0; n < 16; n++) streams.push(await listen(carol));
    const refused = await listen(carol);
    assert.equal(refused.status, 429);
    const { data } = (await refused.json()).error;
    assert.deepEqual([data.code, data.facts.open_streams], ['BUD-003', '16']);
    const another = await listen(dave);
    assert.equal(another.status, 200, 'another one is not concerned');
    assert.deepEqual(streams.map(({ status }) => status), Array(16).fill(200));
    ended.abort();
    const later = new AbortController();
    await until('there is room again', async () => {
      const session = await legacyClient(url('strict'), { token: carol.authorization.slice(7) });
      const headers = { ...carol, 'mcp-session-id': session.transport.sessionId, accept: 'text/event-stream' };
      await session.close();
      const stream = await fetch(url('strict'), { headers, signal: later.signal });
      return stream.status === 200 || stream.status === 409;
    });
    later.abort();
  });

  test("the session id is not the server's own", async () => {
    const client = await legacyClient(url('main'));
    const inside = tap.seen.map(({ headers }) => headers['mcp-session-id']);
    assert.ok(!inside.includes(client.transport.sessionId));
    await client.close();
  });
});

describe('the modern era', () => {
  test('a stock client discovers, lists and calls a modern server', () =>
    withClient(modernClient(url('modern')), async (client) => {
      assert.equal(client.getProtocolEra(), 'modern');
      const { tools } = await client.listTools();
      assert.deepEqual(tools.map((tool) => tool.name).sort(), [
        'get_forecast',
        'get_report',
        'status',
      ]);
      const priced = tools.find((tool) => tool.name === 'get_forecast');
      assert.deepEqual(priced._meta['countersign/price'].price, ['0.01 USDC']);
      assert.equal(priced.outputSchema, undefined);
      const result = await client.callTool({ name: 'status', arguments: {} });
      assert.equal(JSON.parse(result.content[0].text).ok, true);
    }));

  test('progress arrives before the result', () =>
    withClient(modernClient(url('modern')), async (client) => {
      const heard = [];
      const result = await client.callTool(
        { name: 'get_report', arguments: {} },
        { onprogress: (progress) => heard.push(progress.progress) },
      );
      assert.match(result.content[0].text, /report/);
      assert.deepEqual(heard, [1, 2, 3]);
    }));

  test('a priced tool asks for money in a result that the client can read', () =>
    withClient(modernClient(url('modern')), async (client) => {
      await client.listTools();
      const result = await client.callTool({ name: 'get_forecast', arguments: { city: 'Oslo' } });
      assert.equal(result.isError, true);
      assert.equal(challengeOf(result).accepts[0].amount, '10000');
      assert.equal(problemOf(result).code, 'PAY-001');
    }));

  test('before a legacy server, a client that may falls back', () =>
    withClient(modernClient(url('main'), { mode: 'auto' }), async (client) => {
      assert.equal(client.getProtocolEra(), 'legacy');
      const result = await client.callTool({ name: 'echo', arguments: { message: 'old' } });
      assert.equal(result.content[0].text, 'Echo: old');
    }));

  describe('headers that do not mirror the body', () => {
    const version = '2026-07-28';
    const meta = {
      'io.modelcontextprotocol/protocolVersion': version,
      'io.modelcontextprotocol/clientCapabilities': {},
    };
    const right = {
      'mcp-protocol-version': version,
      'mcp-method': 'tools/call',
      'mcp-name': 'plain',
    };
    const send = (headers, name = 'plain', withMeta = meta) =>
      post(url('own'), callOf(name, {}, withMeta), headers);

    test('pass when they do, bare or wrapped', async () => {
      assert.equal((await send(right)).status, 200);
      const wrapped = `=?base64?${Buffer.from('plain').toString('base64')}?=`;
      assert.equal((await send({ ...right, 'mcp-name': wrapped })).status, 200);
    });

    const { 'mcp-name': _n, ...noName } = right;
    const { 'mcp-method': _m, ...noMethod } = right;
    const { 'mcp-protocol-version': _v, ...noVersion } = right;
    const wrong = {
      'no name': noName,
      'no method': noMethod,
      'no version': noVersion,
      'another name': { ...right, 'mcp-name': 'guarded' },
      'another method': { ...right, 'mcp-method': 'tools/list' },
      'another version': { ...right, 'mcp-protocol-version': '2025-11-25' },
      'another name, wrapped': {
        ...right,
        'mcp-name': `=?base64?${Buffer.from('guarded').toString('base64')}?=`,
      },
      'a wrapping that is none': { ...right, 'mcp-name': '=?base64?%%%?=' },
    };
    for (const [what, headers] of Object.entries(wrong)) {
      test(what, async () => {
        const earlier = own.seen.length;
        const answer = await send(headers);
        assert.equal(answer.status, 400, answer.text);
        assert.equal(answer.json.error.code, -32020);
        assert.equal(problemOf(answer).code, 'REQ-007');
        assert.equal(own.seen.length, earlier);
      });
    }

    test('an argument that the schema has mirrored, by that argument alone', async () => {
      await post(url('own'), { jsonrpc: '2.0', id: 1, method: 'tools/list' });
      const ask = (headers, args = { region: 'eu', other: 'us' }) =>
        post(url('own'), callOf('routed', args, meta), { ...right, 'mcp-name': 'routed', ...headers });
      for (const value of ['eu', '=?base64?ZXU=?=']) {
        const answer = await ask({ 'mcp-param-region': value });
        assert.equal(answer.status, 200, answer.text);
        assert.equal(own.seen.at(-1).headers['mcp-param-region'], value);
      }
      assert.equal((await ask({}, { other: 'us' })).status, 200, 'nothing to mirror');
      const earlier = own.seen.length;
      for (const [headers, args] of [
        [{}, undefined],
        [{ 'mcp-param-region': 'us' }, undefined],
        [{ 'mcp-param-region': 'us' }, { other: 'us' }],
        [{ 'mcp-param-region': 'eu', 'mcp-param-zone': 'xx' }, undefined],
      ]) {
        const answer = await ask(headers, args);
        assert.equal(answer.status, 400, answer.text);
        assert.equal(answer.json.error.code, -32020);
        assert.equal(problemOf(answer).code, 'REQ-007');
      }
      assert.equal(own.seen.length, earlier);
    });

    test('the free tool in the header, the priced one in the body', async () => {
      const earlier = own.seen.length;
      const answer = await send(right, 'priced');
      assert.equal(answer.json.error?.code, -32020, answer.text);
      assert.equal(own.seen.length, earlier);
    });

    const modern = {
      'the version of the modern era': { 'mcp-protocol-version': version },
      'a later version': { 'mcp-protocol-version': '2027-01-31' },
      'a version that is none': { 'mcp-protocol-version': 'latest' },
      'the method': { 'mcp-method': 'tools/call' },
      'all of them': right,
    };
    for (const [what, headers] of Object.entries(modern)) {
      test(`without the modern members, and yet ${what}`, async () => {
        for (const body of [callOf('plain'), { jsonrpc: '2.0', id: 1, method: 'tools/list' }]) {
          const earlier = own.seen.length;
          const answer = await post(url('own'), body, headers);
          assert.equal(answer.status, 400, answer.text);
          assert.equal(answer.json.error.code, -32602);
          assert.equal(problemOf(answer).code, 'REQ-016');
          assert.equal(own.seen.length, earlier);
        }
      });
    }

    test('an older version without the modern members is the legacy era', async () => {
      const answer = await post(url('own'), callOf('plain'), { 'mcp-protocol-version': '2025-11-25' });
      assert.equal(answer.status, 200, answer.text);
    });

    test('half of the modern members', async () => {
      const half = { 'io.modelcontextprotocol/protocolVersion': version };
      const answer = await send(right, 'plain', half);
      assert.equal(answer.status, 400);
      assert.equal(answer.json.error.code, -32602);
      assert.equal(problemOf(answer).code, 'REQ-016');
    });
  });
});

describe('nothing is lost on the way', () => {
  test('arguments, params and results keep their bytes', async () => {
    const odd =
      '{"z":12345678901234567890123,"a":1.0,"e":1E+2,' +
      '"nested":{"b":[9007199254740993],"a":"\\u00e9é"}}';
    const result =
      '{"content":[{"type":"text","text":"ok","annotations":{"x-new":1}}],' +
      '"structuredContent":{"big":18446744073709551616000,"f":2.0},"x-unknown":{"b":1,"a":2},' +
      '"_meta":{"vendor/thing":{"n":9007199254740993}}}';
    own.respond(() => result);
    const answer = await post(
      url('own'),
      '{"jsonrpc":"2.0","id":"é-7","method":"tools/call","params":{"x-before":[1.10],' +
        `"name":"plain","arguments":${odd},"_meta":{"vendor/a":1e2,"progressToken":7,` +
        `"traceparent":"00-${'1'.repeat(32)}-${'2'.repeat(16)}-01"}}}`,
    );
    const forwarded = own.seen.at(-1).body;
    assert.ok(forwarded.includes(`"arguments":${odd}`), forwarded);
    assert.ok(forwarded.includes('"x-before":[1.10]'), forwarded);
    assert.ok(forwarded.includes('"vendor/a":1e2,"progressToken":7,"traceparent"'), forwarded);
    assert.ok(answer.text.includes('"id":"é-7"'), answer.text);
    for (const piece of [
      '"annotations":{"x-new":1}',
      '"structuredContent":{"big":18446744073709551616000,"f":2.0}',
      '"x-unknown":{"b":1,"a":2}',
      '"vendor/thing":{"n":9007199254740993}',
    ])
      assert.ok(answer.text.includes(piece), `${piece} in ${answer.text}`);
    own.respond();
  });

  test('an id beyond 2^53 comes back as it was', async () => {
    const id = '9007199254740993';
    const answer = await post(
      url('own'),
      `{"jsonrpc":"2.0","id":${id},"method":"tools/call","params":{"name":"plain"}}`,
    );
    assert.ok(answer.text.includes(`"id":${id}`), answer.text);
  });

  test('unknown members of listed tools', async () => {
    const answer = await post(url('own'), { jsonrpc: '2.0', id: 1, method: 'tools/list' });
    assert.ok(answer.json.result.tools.every((tool) => tool['x-own'] === 1));
  });

  test("the server's own error, with its code and data", async () => {
    own.respond(() => ({ error: '{"code":-32123,"message":"own","data":{"n":9007199254740993}}' }));
    const answer = await call(url('own'), { name: 'plain' });
    assert.equal(answer.json.error.code, -32123);
    assert.ok(answer.text.includes('9007199254740993'));
    own.respond();
  });
});

describe('nothing passes that must not', () => {
  test('neither token nor forged identity reaches a server', async () => {
    const earlier = own.seen.length;
    const forged = {
      'txn-token': 'forged-canary',
      'x-user': 'forged-canary',
      x_user: 'forged-canary',
      'x-forwarded-user': 'forged-canary',
      'cf-access-jwt-assertion': 'forged-canary',
      'x-mcp-subject': 'forged-canary',
      'idempotency-key': 'forged-canary',
      forwarded: 'for=forged-canary',
      cookie: 'session=forged-canary',
      'proxy-authorization': 'Basic forged-canary',
    };
    const token = alice.own;
    const called = await call(url('own'), { token, name: 'guarded', headers: forged });
    assert.equal(called.status, 200, called.text);
    assert.ok(!called.json.result.isError, called.text);
    const list = { jsonrpc: '2.0', id: 1, method: 'tools/list' };
    await post(url('own'), list, { ...bearer(token), ...forged });
    await post(
      url('own'),
      { jsonrpc: '2.0', method: 'notifications/initialized' },
      { ...bearer(token), ...forged },
    );

    const reached = own.seen.slice(earlier);
    assert.equal(reached.length, 3);
    const signature = token.split('.')[2];
    for (const { rawHeaders, body, path } of reached) {
      const said = JSON.stringify([rawHeaders, body, path]);
      assert.ok(!said.includes(signature) && !said.includes('forged-canary'), said);
      assert.ok(!rawHeaders.some((name) => name.toLowerCase() === 'authorization'), said);
    }
  });

  test('nor in a composite header', async () => {
    const earlier = own.seen.length;
    const headers = { 'x-mcp-auth-composite': `Identity ${alice.own}` };
    const answer = await call(url('own'), { name: 'guarded', headers });
    assert.ok(answer.json.result && !answer.json.result.isError, answer.text);
    const said = JSON.stringify(own.seen.slice(earlier));
    assert.ok(!said.includes(alice.own.split('.')[2]), said);
  });

  test('nor does a payment, in a message that is only relayed', async () => {
    const earlier = own.seen.length;
    const _meta = {
      'x402/payment': 'payment-canary',
      'x402.payment': 'payment-canary',
      'ai.bolthub/payment': { scheme: 'l402', proof: 'payment-canary' },
      'vendor/kept': 1,
    };
    const read = { jsonrpc: '2.0', id: 1, method: 'resources/read', params: { uri: 'x:y', _meta } };
    const headers = { 'payment-signature': 'payment-canary', 'x-payment': 'payment-canary' };
    await post(url('own'), read, headers);
    const reached = own.seen.slice(earlier);
    assert.equal(reached.length, 1);
    const said = JSON.stringify([reached[0].rawHeaders, reached[0].body]);
    assert.ok(said.includes('vendor/kept'), said);
    assert.ok(!said.includes('payment-canary'), said);

    const note = { jsonrpc: '2.0', method: 'notifications/progress', params: { progress: 1, _meta } };
    await post(url('own'), note, headers);
    assert.deepEqual(JSON.parse(own.seen.at(-1).body), {
      ...note,
      params: { progress: 1, _meta: { 'vendor/kept': 1 } },
    });
  });

  test('headers that mirror what is no request are compared, or stay here', async () => {
    const note = { jsonrpc: '2.0', method: 'notifications/progress', params: { progress: 2 } };
    const mirrors = { 'mcp-name': 'priced', 'mcp-param-city': 'Bern' };
    const earlier = own.seen.length;
    const other = await post(url('own'), note, { 'mcp-method': 'tools/call', ...mirrors });
    assert.equal(other.status, 400);
    assert.equal(own.seen.length, earlier, 'it says one thing, and is another');
    const forwarded = () =>
      Object.keys(own.seen.at(-1).headers).filter((name) => name.startsWith('mcp-'));
    await post(url('own'), note, { 'mcp-method': note.method, ...mirrors });
    assert.deepEqual(forwarded(), ['mcp-method']);
    const response = { jsonrpc: '2.0', id: 7, result: {} };
    await post(url('own'), response, { 'mcp-method': 'tools/call', ...mirrors });
    assert.deepEqual([own.seen.length, ...forwarded()], [earlier + 2]);
  });

  test("a server cannot speak in the gateway's name", async () => {
    const forged = Object.fromEntries(
      ['receipt', 'refusal', 'charged', 'replay-of', 'price'].map((k) => [
        `countersign/${k}`,
        'forged',
      ]),
    );
    for (const isError of [false, true]) {
      own.respond(() =>
        JSON.stringify({
          content: [],
          isError,
          _meta: { ...forged, 'x402/payment-response': 'forged', 'vendor/kept': 1 },
        }),
      );
      const { json, text } = await call(url('own'), { name: 'plain' });
      assert.equal(json.result._meta['vendor/kept'], 1);
      assert.ok(!text.includes('forged'), text);
    }
    own.respond();
  });

  describe('a malformed request is refused with its code', () => {
    const deep = (depth) => `${'['.repeat(depth)}${']'.repeat(depth)}`;
    const plain = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"plain"}}';
    const withArguments = (text) =>
      plain.replace('"name":"plain"', `"name":"plain","arguments":${text}`);
    const cases = {
      'no JSON': ['{"jsonrpc":', 400, 'REQ-001'],
      'not UTF-8 text': [
        '{"jsonrpc":"2.0","id":1,"method":"\ud800"}'.replace('\ud800', '\\ud800'),
        400,
        'REQ-001',
      ],
      'too large': [withArguments(`{"x":"${'y'.repeat(1 << 20)}"}`), 413, 'REQ-002'],
      'too deep': [withArguments(`{"x":${deep(80)}}`), 400, 'REQ-003'],
      'far too deep': [withArguments(`{"x":${deep(100_000)}}`), 400, 'REQ-003'],
      'the method twice': [plain.replace('"id":1', '"id":1,"method":"ping"'), 400, 'REQ-004'],
      'the name twice': [plain.replace('"name"', '"name":"priced","name"'), 400, 'REQ-004'],
      'the name twice, escaped': [
        plain.replace('"name"', '"n\\u0061me":"priced","name"'),
        400,
        'REQ-004',
      ],
      'an argument twice': [withArguments('{"a":1,"a":2}'), 400, 'REQ-004'],
      'an argument twice, deep inside': [
        withArguments('{"l":[{"a":1,"b":2,"a":3}]}'),
        400,
        'REQ-004',
      ],
      'a batch': [`[${plain}]`, 400, 'REQ-005'],
      'an empty batch': ['[]', 400, 'REQ-005'],
      'no JSON-RPC': ['{"hello":1}', 400, 'REQ-006'],
      'another version of JSON-RPC': [plain.replace('"2.0"', '"1.0"'), 400, 'REQ-006'],
      'an id that is an object': [plain.replace('"id":1', '"id":{}'), 400, 'REQ-006'],
      'a member in another case': [plain.replace('"name"', '"Name"'), 400, 'REQ-006'],
      'two spellings of a member': [
        plain.replace('"name"', '"NAME":"priced","name"'),
        400,
        'REQ-006',
      ],
      'arguments that are no object': [withArguments('[1]'), 400, 'REQ-006'],
      'a tool that is not there': [plain.replace('plain', 'PLAIN'), 404, 'REQ-015'],
    };
    for (const [what, [body, status, code]] of Object.entries(cases)) {
      test(what, async () => {
        const earlier = own.seen.length;
        const answer = await post(url('own'), body);
        assert.equal(problemOf(answer)?.code, code, answer.text.slice(0, 500));
        assert.equal(answer.status, status);
        assert.equal(problemOf(answer).charged, 'no');
        assert.equal(own.seen.length, earlier);
        const isRead = code !== 'REQ-002';
        assert.equal(answer.headers.get('connection'), isRead ? null : 'close');
      });
    }

    const headers = {
      'a foreign origin': [{ origin: 'https://evil.example.com' }, 403, 'REQ-008'],
      'an opaque origin': [{ origin: 'null' }, 403, 'REQ-008'],
      'a content type of forms': [{ 'content-type': 'text/plain' }, 415, 'REQ-011'],
      'a content type that begins alike': [{ 'content-type': 'application/jsonx' }, 415, 'REQ-011'],
      'a session that never was': [{ 'mcp-session-id': 'a' }, 404, 'REQ-012'],
      'a made-up Authorization': [{ authorization: 'Basic YTpi' }, 401, 'IDN-002'],
    };
    for (const [what, [added, status, code]] of Object.entries(headers)) {
      test(what, async () => {
        const earlier = own.seen.length;
        const answer = await post(url('own'), plain, added);
        assert.equal(problemOf(answer)?.code, code, answer.text);
        assert.equal(answer.status, status);
        assert.equal(own.seen.length, earlier);
      });
    }

    for (const name of [
      'mcp-session-id',
      'authorization',
      'payment-signature',
      'x-mcp-auth-composite',
    ]) {
      test(`${name} twice`, async () => {
        const value = name === 'authorization' ? `Bearer ${alice.own}` : 'x';
        const earlier = own.seen.length;
        const answer = await postRaw(url('own'), plain, [
          [name, value],
          [name, value],
        ]);
        assert.equal(problemOf(answer)?.code, 'REQ-014', JSON.stringify(answer.json));
        assert.equal(answer.status, 400);
        assert.equal(own.seen.length, earlier);
      });
    }

    test('a token in the query', async () => {
      const answer = await post(`${url('own')}?access_token=${alice.own}`, plain);
      assert.equal(answer.status, 400);
      assert.equal(problemOf(answer).code, 'IDN-016');
    });

    test('a server that is not there', async () => {
      const answer = await post(url('nowhere'), plain);
      assert.equal(answer.status, 404);
      assert.equal(problemOf(answer).code, 'REQ-009');
    });

    test('a method of HTTP that is not for this', async () => {
      for (const method of ['GET', 'PUT', 'DELETE']) {
        const response = await fetch(url('own'), { method });
        assert.equal(response.status, 405, method);
        assert.match(response.headers.get('allow'), /POST/);
      }
    });

    test('our own origin passes', async () => {
      const { origin } = new URL(url('own'));
      assert.equal((await post(url('own'), plain, { origin })).status, 200);
    });
  });

  test('without a token: 401, and where to get one', async () => {
    for (const body of [callOf('guarded'), callOf('guarded', {}, {})]) {
      const answer = await post(url('own'), body);
      assert.equal(answer.status, 401);
      assert.equal(problemOf(answer).code, 'IDN-001');
      const challenge = answer.headers.get('www-authenticate');
      assert.match(challenge, /^Bearer /);
      assert.match(challenge, /scope="mcp:call"/);
      const metadata = /resource_metadata="([^"]+)"/.exec(challenge)[1];
      const document = await (await fetch(metadata)).json();
      assert.equal(document.resource, url('own'));
      assert.deepEqual(document.authorization_servers, [issuer.url]);
    }
    assert.equal(
      (await post(url('strict'), { jsonrpc: '2.0', id: 1, method: 'tools/list' })).status,
      401,
    );
  });

  test('a token for another server, or without the scope', async () => {
    const elsewhere = await call(url('own'), { token: alice.main, name: 'guarded' });
    assert.equal(elsewhere.status, 401);
    assert.equal(problemOf(elsewhere).code, 'IDN-005');
    const narrow = await issuer.userToken('alice', url('own'), 'mcp:tools');
    const answer = await call(url('own'), { token: narrow, name: 'guarded' });
    assert.equal(answer.status, 403);
    assert.equal(problemOf(answer).code, 'IDN-008');
    assert.match(answer.headers.get('www-authenticate'), /insufficient_scope/);
  });

  test('the admin API is not on the public listener', async () => {
    for (const path of [
      '/v1/grants',
      '/main/mcp/../v1/grants',
      '/%2e%2e/v1/status',
      '//v1/grants',
    ]) {
      const response = await fetch(`http://127.0.0.1:${gateway.port}${path}`);
      assert.equal(response.status, 404, path);
    }
  });

  test('no secret is in what the gateway says of itself', () => {
    const said = gateway.stderr() + gateway.stdout();
    for (const token of [...Object.values(alice), ...Object.values(bob)]) {
      assert.ok(!said.includes(token.split('.')[2]));
    }
  });
});

test('a server that is down: refused, not charged, and good again later', async () => {
  const { port } = everything;
  const sum = () => client.callTool({ name: 'get-sum', arguments: { a: 1, b: 2 } });
  const client = await legacyClient(url('direct'));
  assert.match(textOf(await sum()), /3/);

  await everything.kill9();
  const refused = await sum();
  assert.equal(problemOf(refused)?.code, 'UPS-001', JSON.stringify(refused));
  assert.equal(problemOf(refused).charged, 'no');
  assert.equal(problemOf(refused).retryable, true);

  everything = await parts.keep('everything', startEverything({ port }));
  assert.match(textOf(await sum()), /3/);
  await client.close();
});
