// Access tokens before the gateway: hostile ones from two JOSE libraries and by hand, each refused
// with its code and told where to get a good one; and those of a stock OpenID provider.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { startIssuer } from './lib/issuer.mjs';
import { freePort } from './lib/process.mjs';
import { python } from './lib/python.mjs';
import {
  MODERN_META, answerOf, callRaw, callTool, calls, modernHeaders, startBefore, startParts,
  toolCall,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';

/** What each kind of token must be told; what is not listed is accepted. */
const refused = {
  'IDN-002': [
    'bad-dup-claim-sub', 'bad-dup-claim-aud', 'bad-claims-array', 'bad-claims-not-utf8',
    'bad-padding', 'bad-four-parts', 'bad-json-serialization', 'deep-act-200',
  ],
  'IDN-003': [
    'bad-alg-none', 'bad-alg-none-case', 'bad-hs256-with-rsa-pem', 'bad-kid-unknown',
    'bad-kid-traversal', 'bad-kid-of-other-family', 'bad-foreign-key', 'bad-sig-bitflip',
    'bad-sig-empty', 'bad-sig-zero', 'bad-sig-der', 'bad-payload-swap',
  ],
  'IDN-004': [
    'bad-exp-past', 'bad-exp-2min-ago', 'bad-exp-30s-ago', 'bad-nbf-future', 'bad-iat-future',
  ],
  'IDN-005': [
    'bad-aud-other', 'bad-aud-prefix', 'bad-aud-trailing-slash', 'bad-aud-case',
    'bad-aud-empty-array',
  ],
  'IDN-006': ['bad-iss-slash', 'bad-iss-other'],
  'IDN-007': [
    'bad-typ-id-token', 'bad-typ-dpop', 'bad-typ-idjag', 'bad-typ-logout', 'bad-typ-missing',
  ],
  'IDN-010': ['bad-crit-unknown', 'bad-b64-false-crit', 'bad-embedded-jwk', 'bad-jku'],
  'IDN-012': ['deep-act-6'],
  'IDN-013': ['bad-cnf-as-bearer'],
  'IDN-014': [
    'bad-aud-missing', 'bad-aud-number', 'bad-iss-array', 'bad-iss-missing', 'bad-iss-number',
    'bad-exp-missing', 'bad-exp-string', 'bad-exp-huge-float', 'bad-exp-null', 'bad-sub-missing',
    'bad-sub-empty', 'bad-sub-number',
  ],
  'IDN-015': ['big-20k'],
};
// Larger than a header block may be: the request is refused before anybody looks for a token.
const oversized = ['big-200k'];

const servers = {
  weather: {
    relay: { scopes: ['mcp:call'] },
    tools: {
      get_forecast: { price: 'free' },
      get_report: { price: 'free', scopes: ['mcp:call', 'reports:read'] },
      status: { price: 'free', scopes: ['mcp:call'] },
      delete_report: { price: 'free', identity: 'human' },
      get_slow: { price: 'free', identity: 'human', intent: 'read' },
    },
  },
  search: { tools: { get_forecast: { price: 'free' } } },
};

let parts;
let minter;
let issuer;
let gateway;
let tokens;
let weather;

before(async () => {
  const port = await freePort();
  weather = `http://127.0.0.1:${port}/weather/mcp`;
  const search = `http://127.0.0.1:${port}/search/mcp`;
  parts = await startParts();
  issuer = await startIssuer({ resources: [weather, search] });
  minter = await startMinter(weather);
  tokens = minter.tokens;
  const config = { servers, issuers: [issuer.url, minter.url] };
  gateway = await startBefore(parts, config, { port });
});
after(async () => {
  await gateway?.stop();
  await minter?.stop();
  await issuer?.stop();
  await parts?.stop();
});

/** An issuer that is only discovery and keys; its tokens come from the minter. */
async function startMinter(audience) {
  let jwks;
  let fetches = 0;
  const server = createServer((request, response) => {
    const documents = {
      '/.well-known/openid-configuration': { issuer: url, jwks_uri: `${url}/jwks` },
      '/jwks': jwks,
    };
    if (request.url === '/jwks') fetches += 1;
    const document = documents[request.url];
    response.writeHead(document ? 200 : 404, { 'content-type': 'application/json' });
    response.end(JSON.stringify(document ?? {}));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  const out = mkdtempSync(path.join(os.tmpdir(), 'countersign-hostile-'));
  try {
    await python('mint_hostile.py', { args: [url, audience, out] });
    jwks = JSON.parse(readFileSync(path.join(out, 'jwks.json'), 'utf8'));
    const minted = JSON.parse(readFileSync(path.join(out, 'tokens.json'), 'utf8'));
    return {
      url,
      tokens: minted,
      fetches: () => fetches,
      async stop() {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      },
    };
  } finally {
    rmSync(out, { recursive: true });
  }
}

const forecast = (token, at = 'weather') =>
  callTool(gateway, at, 'get_forecast', { city: 'Oslo' }, { headers: bearer(token) });

/** The parameters of a Bearer challenge. */
function challengeOf(answer) {
  const header = answer.headers.get('www-authenticate') ?? '';
  assert.match(header, /^Bearer /, `${answer.status} ${answer.text}`);
  const pairs = header.slice(7).matchAll(/([a-z_]+)="([^"]*)"/g);
  return Object.fromEntries([...pairs].map(([, name, value]) => [name, value]));
}

async function isChallenged(answer, status, code) {
  assert.deepEqual([answer.status, answer.code], [status, code], answer.text);
  const challenge = challengeOf(answer);
  const metadata = new URL('/.well-known/oauth-protected-resource/weather/mcp', gateway.url).href;
  assert.equal(challenge.resource_metadata, metadata);
  assert.equal(answer.problem.charged, 'no');
  return challenge;
}

describe('hostile tokens', () => {
  test('the list covers what is minted', () => {
    const listed = [...Object.values(refused).flat(), ...oversized].sort();
    const minted = Object.keys(tokens).filter((name) => !/^(ok|interop|malleable)-/.test(name));
    assert.deepEqual(listed, minted.sort());
  });

  test('good ones run, however they are made', async () => {
    for (const name of Object.keys(tokens).filter((name) => /^(ok|malleable)-/.test(name))) {
      const answer = await forecast(tokens[name]);
      assert.equal(answer.status, 200, `${name}: ${answer.text}`);
      assert.ok(answer.result.structuredContent.sky, name);
    }
  });

  test('Ed25519 by its newer name is accepted', async () => {
    assert.equal((await forecast(tokens['interop-alg-ed25519-rfc9864'])).status, 200);
  });

  for (const [code, names] of Object.entries(refused)) {
    const status = code === 'IDN-012' ? 403 : 401;
    for (const name of names) {
      test(`${name} is refused with ${code}`, async () => {
        const ran = await parts.ran('get_forecast');
        const challenge = await isChallenged(await forecast(tokens[name]), status, code);
        assert.equal(challenge.error, 'invalid_token');
        assert.equal(await parts.ran('get_forecast'), ran);
        // Other methods than calls look at the token just as closely.
        const list = await answerOf(await fetch(weather, {
          method: 'POST',
          headers: { ...modernHeaders('tools/list'), ...bearer(tokens[name]) },
          body: JSON.stringify({
            jsonrpc: '2.0', id: 1, method: 'tools/list', params: { _meta: MODERN_META },
          }),
        }));
        assert.deepEqual([list.status, list.code], [status, code], list.text);
        assert.equal(list.problem.proofs.identity, 'refused', list.text);
      });
    }
  }

  for (const name of oversized) {
    test(`${name} is refused as a header`, async () => {
      const answer = await forecast(tokens[name]).catch((error) => error);
      // The connection may be closed while the client still writes.
      if (answer instanceof Error) return;
      assert.equal(answer.status, 431, answer.text);
    });
  }

  test('no token of the list shows up in a record, and unknown keys cost one fetch', async () => {
    const log = JSON.stringify(await calls(gateway)) + gateway.stderr();
    for (const [name, token] of Object.entries(tokens)) {
      const [, , signature = ''] = token.split('.');
      if (signature.length > 20) assert.ok(!log.includes(signature), name);
    }
    assert.ok(minter.fetches() <= 2, `${minter.fetches()} fetches of the keys`);
  });
});

describe('where to get a token', () => {
  test('without one: 401 without an error, and with the metadata', async () => {
    const answer = await callTool(gateway, 'weather', 'get_forecast', {});
    const challenge = await isChallenged(answer, 401, 'IDN-001');
    assert.equal(challenge.error, undefined);
    assert.deepEqual(challenge.scope?.split(' ').sort(), ['mcp:call', 'reports:read']);
  });

  test('the metadata is that of the resource', async () => {
    const answer = await forecast(tokens['bad-sig-zero']);
    const { resource_metadata } = challengeOf(answer);
    const response = await fetch(resource_metadata);
    assert.equal(response.status, 200);
    assert.match(response.headers.get('content-type'), /^application\/json/);
    const { scopes_supported, ...document } = await response.json();
    assert.deepEqual(document, {
      resource: weather,
      authorization_servers: [issuer.url, minter.url],
      bearer_methods_supported: ['header'],
    });
    assert.deepEqual(scopes_supported.sort(), ['mcp:call', 'reports:read']);
  });

  test('metadata of nothing is nothing', async () => {
    for (const at of ['', '/nowhere/mcp', '/weather', '/weather/mcp/', '/../weather/mcp']) {
      const url = `${gateway.url}/.well-known/oauth-protected-resource${at}`;
      assert.equal((await fetch(url)).status, 404, at);
    }
  });

  test('a missing scope: 403 that names every scope of the operation', async () => {
    const headers = bearer(await issuer.clientCredentials(weather, 'mcp:call'));
    const answer = await callTool(gateway, 'weather', 'get_report', {}, { headers });
    const challenge = await isChallenged(answer, 403, 'IDN-008');
    assert.equal(challenge.error, 'insufficient_scope');
    assert.deepEqual(challenge.scope.split(' ').sort(), ['mcp:call', 'reports:read']);
    const other = bearer(await issuer.clientCredentials(weather, 'reports:read'));
    const smaller = await callTool(gateway, 'weather', 'status', {}, { headers: other });
    assert.equal((await isChallenged(smaller, 403, 'IDN-008')).scope, 'mcp:call', 'no more than that');
  });
});

describe('a stock provider', () => {
  test('a token by client credentials', async () => {
    assert.equal((await forecast(await issuer.clientCredentials(weather))).status, 200);
  });

  test('a token by authorization code with PKCE', async () => {
    assert.equal((await forecast(await issuer.userToken('alice', weather))).status, 200);
  });

  test('a person\'s token where a person is needed, and no program\'s', async () => {
    const call = (token) =>
      callTool(gateway, 'weather', 'get_slow', { ms: 1 }, { headers: bearer(token) });
    assert.equal((await call(await issuer.userToken('alice', weather))).status, 200);
    const machine = await call(await issuer.clientCredentials(weather));
    const challenge = await isChallenged(machine, 403, 'IDN-011');
    assert.equal(challenge.error, 'insufficient_user_authentication');
  });

  test('a token of another upstream', async () => {
    const token = await issuer.clientCredentials(`${gateway.url}/search/mcp`);
    assert.equal((await forecast(token, 'search')).status, 200);
    await isChallenged(await forecast(token), 401, 'IDN-005');
  });

  test('an ID token', async () => {
    const { id_token } = await issuer.userTokens('alice', weather, 'openid mcp:call');
    const answer = await forecast(id_token);
    assert.equal(answer.status, 401, answer.text);
    assert.match(answer.code, /^IDN-0(05|07|10)$/);
  });

  test('a token of a stranger\'s issuer', async () => {
    const stranger = await startIssuer({ resources: [weather] });
    try {
      const token = await stranger.clientCredentials(weather);
      await isChallenged(await forecast(token), 401, 'IDN-006');
    } finally {
      await stranger.stop();
    }
  });
});

describe('where tokens stand', () => {
  let token;
  before(async () => (token = await issuer.clientCredentials(weather)));

  test('in the query: refused, and not taken', async () => {
    for (const query of [
      `access_token=${token}`, `Access%5FToken=${token}`, `x=1&bearer=${token}`, `anything=${token}`,
    ]) {
      const { init } = toolCall(gateway, 'weather', 'get_forecast', {});
      for (const headers of [init.headers, { ...init.headers, ...bearer(token) }]) {
        const answer = await answerOf(await fetch(`${weather}?${query}`, { ...init, headers }));
        assert.deepEqual([answer.status, answer.code], [400, 'IDN-016'], query);
        assert.ok(!answer.text.includes(token), 'the answer repeats the token');
      }
    }
    assert.ok(!gateway.stderr().includes(token.split('.')[2]));
  });

  test('in the body: not taken', async () => {
    const meta = { authorization: `Bearer ${token}`, access_token: token };
    const answer = await callTool(gateway, 'weather', 'get_forecast', {}, { meta });
    await isChallenged(answer, 401, 'IDN-001');
  });

  test('twice, on two lines or joined', async () => {
    const value = `Bearer ${token}`;
    const lines = ['authorization', value];
    const twice = await callRaw(gateway, 'weather', 'get_forecast', {}, [...lines, ...lines]);
    assert.deepEqual([twice.status, twice.code], [400, 'REQ-014'], twice.text);
    for (const joined of [`${value}, ${value}`, `${value},${value}`, `${value}, L402 a:b`]) {
      const sent = ['authorization', joined];
      const answer = await callRaw(gateway, 'weather', 'get_forecast', {}, sent);
      assert.ok([400, 401].includes(answer.status), `${answer.status} ${answer.text}`);
      assert.match(answer.code, /^(IDN-002|REQ-014)$/);
    }
  });

  test('under another scheme', async () => {
    for (const value of [`DPoP ${token}`, `Basic ${token}`, token, 'Bearer', 'Bearer ']) {
      const answer = await callRaw(gateway, 'weather', 'get_forecast', {}, ['authorization', value]);
      await isChallenged(answer, 401, 'IDN-002');
    }
    const lower = ['authorization', `bEARER ${token}`];
    assert.equal((await callRaw(gateway, 'weather', 'get_forecast', {}, lower)).status, 200);
  });

  test('in headers that only proxies set', async () => {
    const { init } = toolCall(gateway, 'weather', 'get_forecast', {});
    for (const name of ['x-user', 'x-forwarded-user', 'cf-access-jwt-assertion', 'txn-token']) {
      const headers = { ...init.headers, [name]: token };
      const answer = await answerOf(await fetch(weather, { ...init, headers }));
      assert.deepEqual([name, answer.status, answer.code], [name, 401, 'IDN-001']);
    }
  });
});

test('nothing panicked', () => assert.ok(!gateway.stderr().includes('panicked'), gateway.stderr()));
