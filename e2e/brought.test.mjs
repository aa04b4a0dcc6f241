// Consent that comes along with a call: in an access token of a real provider (RFC 9396), and
// signed by a person's own key. It becomes a grant once, and the grant decides from then on.

import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import Ajv2020 from 'ajv/dist/2020.js';
import * as jose from 'jose';

import {
  Parts, assets, callOf, issuerConfig, post, problemOf, textOf,
} from './lib/gate.mjs';
import { NETWORK, USDC } from './lib/chain.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { freePort } from './lib/process.mjs';
import { startOwnServer } from './lib/tap.mjs';
import { bearer } from './lib/wire.mjs';

const TYPE = 'urn:countersign:mcp-spend:1';
const MERCHANT = '0x209693Bc6afc0C5328bA36FaF03C514EF312287C';
const result = (text) =>
  JSON.stringify({ resultType: 'complete', content: [{ type: 'text', text }] });
const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;
const DAY_S = 24 * 3600;

const parts = new Parts();
let issuer, stranger, gateway, own, url;

before(() =>
  parts.starting(async () => {
    const port = await freePort();
    url = (server) => `http://127.0.0.1:${port}/${server}/mcp`;
    const tools = ['get_thing', 'get_other'].map((name) => ({ name, inputSchema: { type: 'object' } }));
    own = await parts.keep('own', startOwnServer({
      tools, answer: ({ params }) => result(`ran ${params.name}`),
    }));
    const start = () => startIssuer({ resources: ['own', 'next'].map(url) });
    issuer = await parts.keep('issuer', start());
    stranger = await parts.keep('stranger', start());
    const server = {
      upstream: own.url,
      tools: {
        get_thing: { price: 'free', consent: 'required' },
        get_other: { price: 'free', consent: 'required' },
      },
    };
    gateway = await parts.keep('gateway', startGateway({
      port,
      config: {
        listen: `127.0.0.1:${port}`,
        issuers: [
          { ...issuerConfig(issuer), consent: { per_call: '0.10 USD', total: '2 USD' } },
          issuerConfig(stranger),
        ],
        assets,
        rails: { x402: { pay_to: MERCHANT, facilitator: { url: 'http://127.0.0.1:9' } } },
        limits: { asks_per_agent_per_hour: 1000 },
        servers: { own: server, next: server },
      },
    }));
  }),
);
after(() => parts.stop());

let last = 0;
/** What a person agrees to at the provider. */
const detail = (changes = {}) => ({
  type: TYPE,
  locations: [url('own')],
  actions: ['tools/call'],
  datatypes: ['get_thing'],
  identifier: `trip-${++last}`,
  intents: ['read'],
  spend: {
    asset: `${NETWORK}/erc20:${USDC}`,
    decimals: 6,
    per_call_max: '50000',
    budgets: [{ window: 'P1D', max: '1000000' }],
    total_max: '1500000',
    max_calls: 2,
  },
  purpose: 'trip planning',
  exp: inSeconds(DAY_S),
  ...changes,
});
const spend = (changes) => ({ spend: { ...detail().spend, ...changes } });

const callWith = (token, tool = 'get_thing', server = 'own', meta) =>
  post(url(server), callOf(tool, {}, meta), bearer(token));
const grantsOf = async (subject) =>
  (await gateway.cli('grant', 'list')).items.filter((grant) => grant.subject === subject);

describe('in the access token', () => {
  test('it makes one grant, bounded by the issuer, the token and the detail', async () => {
    const wide = spend({ per_call_max: '900000', total_max: '90000000', max_calls: 2 });
    const token = await issuer.consentedToken('anna', url('own'), [detail(wide)]);
    assert.equal(textOf(await callWith(token)), 'ran get_thing');
    const [grant, ...more] = await grantsOf('anna');
    assert.equal(more.length, 0);
    assert.deepEqual(
      [grant.source, grant.tools, grant.intents, grant.per_call, grant.total, grant.windows],
      ['rar', ['get_thing'], ['read'], '0.1 USD', '2 USD', ['1 USD/24h']],
    );
    assert.equal(grant.approved_by, `${issuer.url}|anna`);
    const { exp } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    assert.equal(Date.parse(grant.expires_at), exp * 1000, 'no longer than the token');
    assert.equal(problemOf(await callWith(token, 'get_other')).code, 'CNS-001', 'another tool');
    assert.equal(textOf(await callWith(token)), 'ran get_thing');
    assert.equal(problemOf(await callWith(token)).code, 'CNS-006', 'two calls, counted over all');
    assert.equal((await grantsOf('anna')).length, 1);
  });

  test('a refreshed token carries the same consent: what is used stays used', async () => {
    const scope = 'mcp:call offline_access';
    const first = await issuer.userTokens('bert', url('own'), scope, [detail()]);
    assert.equal(textOf(await callWith(first.access_token)), 'ran get_thing');
    const [before] = await grantsOf('bert');
    await new Promise((done) => setTimeout(done, 1100));
    const second = await issuer.refresh(first.refresh_token, url('own'));
    assert.equal(textOf(await callWith(second.access_token)), 'ran get_thing');
    const [grant, ...more] = await grantsOf('bert');
    assert.deepEqual([more.length, grant.id, grant.calls], [0, before.id, 2]);
    assert.ok(grant.expires_at > before.expires_at, 'it lives as long as the later token');
    assert.equal(problemOf(await callWith(second.access_token)).code, 'CNS-006');
  });

  test('a revoked one stays revoked, with this token and the next, over a crash', async () => {
    const tokens = await issuer.userTokens('cora', url('own'), 'mcp:call offline_access', [detail()]);
    assert.equal(textOf(await callWith(tokens.access_token)), 'ran get_thing');
    const [grant] = await grantsOf('cora');
    await gateway.cli('grant', 'revoke', grant.id);
    assert.equal(problemOf(await callWith(tokens.access_token)).code, 'CNS-003');
    await gateway.kill9();
    await gateway.restart();
    const next = await issuer.refresh(tokens.refresh_token, url('own'));
    assert.equal(problemOf(await callWith(next.access_token)).code, 'CNS-003');
    assert.equal((await grantsOf('cora')).length, 1);
  });

  test('something else under the same name is refused', async () => {
    const narrow = detail();
    const first = await issuer.consentedToken('dora', url('own'), [narrow]);
    assert.equal(textOf(await callWith(first)), 'ran get_thing');
    const wider = { ...narrow, datatypes: ['get_thing', 'get_other'] };
    const second = await issuer.consentedToken('dora', url('own'), [wider]);
    const refused = problemOf(await callWith(second, 'get_other'));
    assert.equal(refused.code, 'CNS-016');
    assert.match(refused.facts.rule, /another consent came under this name/);
  });

  test('an issuer that is not trusted for it, and a program, consent to nothing', async () => {
    const foreign = await stranger.consentedToken('emil', url('own'), [detail()]);
    assert.equal(problemOf(await callWith(foreign)).code, 'CNS-001');
    const claims = {
      sub: 'agent-m2m', client_id: 'agent-m2m', aud: url('own'), jti: 'm2m-1', org_id: 'org_acme',
      iat: inSeconds(0), exp: inSeconds(300), scope: 'mcp:call', authorization_details: [detail()],
    };
    assert.equal(problemOf(await callWith(await issuer.sign(claims))).code, 'CNS-016');
    const delegated = { ...claims, sub: 'emil', client_id: 'web-agent', jti: 'act-1', auth_time: inSeconds(0) };
    const further = await issuer.sign({ ...delegated, act: { sub: 'another-agent' } });
    assert.match(problemOf(await callWith(further)).facts.rule, /delegated on/);
    assert.deepEqual(await grantsOf('emil'), []);
    assert.equal(textOf(await callWith(await issuer.sign(delegated))), 'ran get_thing', 'the client itself');
  });

  test('for another server it means nothing here', async () => {
    const token = await issuer.consentedToken('finn', url('own'), [detail({ locations: [url('next')] })]);
    assert.equal(problemOf(await callWith(token)).code, 'CNS-001');
    assert.deepEqual(await grantsOf('finn'), []);
  });

  test('whatever is unknown or inexact refuses the call, and makes no grant', async () => {
    const cases = {
      'an unknown type beside a good one': [detail(), { type: 'urn:example:other:1' }],
      'an unknown member': [detail({ until: 'summer' })],
      'an unknown constraint of the spend': [detail(spend({ per_hour_max: '1' }))],
      'another action': [detail({ actions: ['tools/call', 'resources/read'] })],
      'an unknown intent': [detail({ intents: ['read', 'everything'] })],
      'every tool': [detail({ datatypes: ['*'] })],
      'a tool that is not offered': [detail({ datatypes: ['get_thing', 'get_all'] })],
      'a number for an amount': [detail(spend({ per_call_max: 50000 }))],
      'unit ×100': [detail(spend({ decimals: 4 }))],
      'another asset': [detail(spend({ asset: `${NETWORK}/erc20:${MERCHANT}` }))],
      'the same token on another chain': [detail(spend({ asset: `eip155:1/erc20:${USDC}` }))],
      'more than can be counted': [detail(spend({ total_max: '9'.repeat(38) }))],
      'more than a number holds': [detail(spend({ total_max: '9'.repeat(60) }))],
      'no total': [detail(spend({ total_max: undefined }))],
      'a window of the calendar': [detail(spend({ budgets: [{ window: 'P1M', max: '1' }] }))],
      'a payee on another chain': [detail({ payees: [`eip155:1:${MERCHANT}`] })],
      'a time that has passed': [detail({ exp: inSeconds(-60) })],
    };
    for (const [name, details] of Object.entries(cases)) {
      const token = await issuer.consentedToken('gina', url('own'), details);
      assert.equal(problemOf(await callWith(token))?.code, 'CNS-016', name);
    }
    assert.deepEqual(await grantsOf('gina'), []);
  });

  test('its JSON Schema says what the gateway takes', () => {
    const file = new URL('../docs/mcp-spend.schema.json', import.meta.url);
    const check = new Ajv2020().compile(JSON.parse(readFileSync(file, 'utf8')));
    const says = (value) => check(JSON.parse(JSON.stringify(value)));
    assert.ok(says(detail({ payees: [`${NETWORK}:${MERCHANT}`] })), JSON.stringify(check.errors));
    const refused = [
      { type: 'urn:example:other:1' }, { until: 'summer' }, { actions: ['tools/list'] },
      { intents: ['everything'] }, { intents: [] }, { datatypes: ['*'] }, { identifier: '' },
      spend({ per_hour_max: '1' }), spend({ per_call_max: 50000 }), spend({ total_max: undefined }),
      spend({ budgets: [{ window: 'P1M', max: '1' }] }), { exp: 'tomorrow' }, { locations: [] },
    ];
    for (const changes of refused) assert.ok(!says(detail(changes)), JSON.stringify(changes));
  });
});

const KEY_URI = 'urn:ietf:params:oauth:jwk-thumbprint:sha-256:';
const sha256 = (text) => createHash('sha256').update(text).digest('base64url');

/** A key of somebody's own. */
async function ownKey(alg = 'EdDSA') {
  const { privateKey, publicKey } = await jose.generateKeyPair(alg, { extractable: true });
  const jwk = await jose.exportJWK(publicKey);
  const kid = await jose.calculateJwkThumbprint(jwk);
  const sign = (payload, typ, header = {}) =>
    new jose.SignJWT(payload).setProtectedHeader({ alg, kid, typ, ...header }).sign(privateKey);
  return { alg, jwk, kid, sign };
}

/** The same, registered for a person. */
async function keyOf(subject, alg) {
  const key = await ownKey(alg);
  const file = path.join(gateway.dir, `${key.kid}.jwk`);
  writeFileSync(file, JSON.stringify(key.jwk));
  const added = await gateway.cli(
    'people', 'key', 'add', '--tenant', 'org_acme', '--issuer', issuer.url, '--subject', subject,
    '--name', 'phone', '--jwk', file,
  );
  assert.equal(added.id, key.kid);
  return key;
}

/** What a person signs. `grant` and the rest replace members. */
const mandate = (key, subject, { grant, ...changes } = {}) => ({
  iss: `${KEY_URI}${key.kid}`,
  aud: url('own'),
  iat: inSeconds(0),
  nbf: inSeconds(-5),
  exp: inSeconds(DAY_S),
  jti: randomUUID(),
  sub_id: { format: 'iss_sub', iss: issuer.url, sub: subject },
  grant: {
    tenant: 'org_acme',
    agent: 'web-agent',
    server: 'own',
    tools: ['get_thing'],
    intents: ['read'],
    per_call: '0.05 USD',
    total: '5 USD',
    windows: ['1 USD/24h'],
    max_calls: 3,
    purpose: 'trip planning',
    ...grant,
  },
  ...changes,
});
const MANDATE = 'consent-grant+jwt';
const brings = (text) => ({ 'countersign/consent-grant': text });

describe('signed by a person', () => {
  const tokenOf = (name) => issuer.userToken(name, url('own'));
  const bring = async (token, text, tool) => callWith(token, tool, 'own', brings(text));

  for (const alg of ['EdDSA', 'ES256']) {
    test(`${alg}: it makes one grant, counts once, and never reaches the server`, async () => {
      const name = `hal-${alg}`;
      const key = await keyOf(name, alg);
      const token = await tokenOf(name);
      const signed = await key.sign(mandate(key, name), MANDATE);
      own.seen.length = 0;
      assert.equal(textOf(await bring(token, signed)), 'ran get_thing');
      assert.ok(!own.seen.some(({ body }) => body.includes(signed.slice(-40))), 'stripped');
      const [grant] = await grantsOf(name);
      assert.deepEqual(
        [grant.source, grant.per_call, grant.total, grant.windows, grant.max_calls],
        ['jws', '0.05 USD', '5 USD', ['1 USD/24h'], 3],
      );
      assert.equal(textOf(await bring(token, signed)), 'ran get_thing', 'brought again');
      assert.equal(textOf(await callWith(token)), 'ran get_thing', 'the row decides');
      assert.equal(problemOf(await bring(token, signed)).code, 'CNS-006');
      assert.equal((await grantsOf(name)).length, 1);
    });
  }

  test('a revoked one stays revoked; a key that ends takes what it signed along', async () => {
    const key = await keyOf('ida');
    const token = await tokenOf('ida');
    const [first, second] = [mandate(key, 'ida'), mandate(key, 'ida')];
    const signed = await key.sign(first, MANDATE);
    assert.equal(textOf(await bring(token, signed)), 'ran get_thing');
    const [grant] = await grantsOf('ida');
    await gateway.cli('grant', 'revoke', grant.id);
    assert.equal(problemOf(await bring(token, signed)).code, 'CNS-003');
    assert.equal(textOf(await bring(token, await key.sign(second, MANDATE))), 'ran get_thing');
    await gateway.cli('people', 'key', 'revoke', key.kid);
    const standing = (await grantsOf('ida')).map(({ status }) => status);
    assert.deepEqual(standing, ['suspended', 'revoked']);
    assert.match(problemOf(await callWith(token)).code, /CNS-00[34]/);
    const third = await key.sign(mandate(key, 'ida'), MANDATE);
    assert.equal(problemOf(await bring(token, third)).code, 'CNS-016');
    const { items } = await gateway.cli('people', 'key', 'list', '--subject', 'ida');
    assert.deepEqual(items, []);
  });

  test('a child within its parent; a wider one is refused', async () => {
    const key = await keyOf('jan');
    const token = await tokenOf('jan');
    const parent = await gateway.cli(
      'grant', 'create', '--tenant', 'org_acme', '--issuer', issuer.url, '--subject', 'jan',
      '--agent', 'web-agent', '--server', 'own', '--tool', 'get_other', '--tool', 'get_thing',
      '--intent', 'read', '--per-call', '0.10 USD', '--total', '9 USD', '--window', '2 USD/24h',
      '--max-calls', '9', '--expires', '48h',
    );
    const child = (changes) =>
      key.sign(
        mandate(key, 'jan', {
          nbf: inSeconds(0), grant: { bounds: { parent: parent.grant.id }, ...changes },
        }),
        MANDATE,
      );
    for (const wider of [{ per_call: '0.11 USD' }, { total: '10 USD' }, { intents: ['read', 'write'] }]) {
      const refused = problemOf(await bring(token, await child(wider)));
      assert.equal(refused.code, 'CNS-001', JSON.stringify(wider));
      assert.ok(refused.facts.wider_than_parent);
    }
    await new Promise((done) => setTimeout(done, 1100));
    assert.equal(textOf(await bring(token, await child({}))), 'ran get_thing');
    const used = (await grantsOf('jan')).map(({ source, calls }) => [source, calls]).sort();
    assert.deepEqual(used, [['jws', 1], ['page', 1]], 'what the child uses is used of its parent');
  });

  test('whatever is foreign, unknown or inexact is refused, and makes no grant', async () => {
    const [key, other] = [await keyOf('kai'), await keyOf('lea')];
    const stray = await ownKey();
    const token = await tokenOf('kai');
    const good = mandate(key, 'kai');
    const signed = await key.sign(good, MANDATE);
    const receipt = (await gateway.cli(
      'grant', 'create', '--tenant', 'org_acme', '--issuer', issuer.url, '--subject', 'mia',
      '--agent', 'web-agent', '--server', 'own', '--tool', 'get_thing', '--intent', 'read',
      '--per-call', '1 USD', '--expires', '1h',
    )).receipt;
    const [head, body, tail] = signed.split('.');
    const grantWith = (grant) => key.sign(mandate(key, 'kai', { grant }), MANDATE);
    const claimWith = (claims) => key.sign(mandate(key, 'kai', claims), MANDATE);
    const cases = {
      'nobody\'s key': await stray.sign({ ...good, iss: `${KEY_URI}${stray.kid}` }, MANDATE),
      'another person\'s key': await other.sign(mandate(other, 'kai'), MANDATE),
      'another person\'s mandate': await other.sign(mandate(other, 'lea'), MANDATE),
      'a foreign audience': await claimWith({ aud: url('next') }),
      'the gateway as audience': await claimWith({ aud: gateway.url }),
      'several audiences': await claimWith({ aud: [url('own'), url('next')] }),
      'another issuer of keys': await claimWith({ iss: issuer.url }),
      'for another agent': await grantWith({ agent: 'other-agent' }),
      'for another server': await grantWith({ server: 'next' }),
      'for another tenant': await grantWith({ tenant: 'org_other' }),
      'over': await claimWith({ exp: inSeconds(-1) }),
      'signed ahead of time': await claimWith({ iat: inSeconds(3600) }),
      'no jti': await claimWith({ jti: undefined }),
      'an unknown claim': await claimWith({ scope: 'all' }),
      'an unknown constraint': await grantWith({ per_hour: '1 USD' }),
      'an unknown bound': await grantWith({ bounds: { weekdays: [1] } }),
      'unit ×100: cents': await grantWith({ per_call: '5 cents' }),
      'no unit': await grantWith({ per_call: '5' }),
      'a number': await grantWith({ per_call: 5 }),
      'more places than the unit has': await grantWith({ per_call: '0.0500001 USDC' }),
      'a decimal comma': await grantWith({ per_call: '0,05 USD' }),
      'a tool that is not offered': await grantWith({ tools: ['get_all'] }),
      'no total': await grantWith({ total: undefined }),
      'an unknown intent': await grantWith({ intents: ['everything'] }),
      'another type': await key.sign(good, 'at+jwt'),
      'a further header member': await key.sign(good, MANDATE, { cty: 'x' }),
      'a bit turned': `${head}.${body}.${tail.startsWith('A') ? 'B' : 'A'}${tail.slice(1)}`,
      'no signature': `${head}.${body}.`,
      'alg none': `${Buffer.from(JSON.stringify({ alg: 'none', kid: key.kid, typ: MANDATE })).toString('base64url')}.${body}.`,
      'a copy that the gateway signed': receipt,
      'nonsense': 'x',
      'a key binding without cnf': `${signed}~${await key.sign({}, 'kb+jwt')}`,
    };
    for (const [name, text] of Object.entries(cases)) {
      assert.equal(problemOf(await bring(token, text))?.code, 'CNS-016', name);
    }
    const notText = await callWith(token, 'get_thing', 'own', brings({ a: 1 }));
    assert.equal(problemOf(notText).code, 'CNS-016');
    const long = await claimWith({ exp: inSeconds(31 * DAY_S) });
    assert.equal(problemOf(await bring(token, long)).code, 'CNS-002', 'longer than 30 days');
    assert.deepEqual(await grantsOf('kai'), []);
    assert.equal(textOf(await bring(token, signed)), 'ran get_thing', 'the good one is good');
    const reused = await claimWith({ jti: good.jti, grant: { per_call: '4 USD' } });
    assert.match(problemOf(await bring(token, reused)).facts.rule, /another consent came/);
  });

  test('a mandate for the agent\'s key wants that key\'s word on a fresh nonce', async () => {
    const [key, agent, thief] = [await keyOf('nia'), await ownKey('ES256'), await ownKey('ES256')];
    const token = await tokenOf('nia');
    const signed = await key.sign(mandate(key, 'nia', { cnf: { jwk: agent.jwk } }), MANDATE);
    const asked = problemOf(await bring(token, signed));
    assert.equal(asked.code, 'CNS-016');
    const binding = (nonce, changes) => ({
      iat: inSeconds(0), aud: url('own'), nonce, sd_hash: sha256(`${signed}~`), ...changes,
    });
    const present = async (signer, said, typ = 'kb+jwt') =>
      problemOf(await bring(token, `${signed}~${await signer.sign(said, typ)}`))?.code;
    const { nonce } = asked.facts;
    const foreign = problemOf(await callWith(token, 'get_other', 'own', brings(signed))).facts.nonce;
    const cases = [
      [thief, binding(nonce)],
      [agent, binding(nonce, { sd_hash: sha256('other~') })],
      [agent, binding(nonce, { aud: url('next') })],
      [agent, binding(nonce, { iat: inSeconds(-400) })],
      [agent, binding(nonce, { iat: inSeconds(400) })],
      [agent, binding(nonce, { more: 1 })],
      [agent, binding(foreign)],
      [agent, binding(`${nonce.slice(0, -1)}${nonce.endsWith('0') ? 1 : 0}`)],
      [agent, binding('made-up')],
      [agent, binding(nonce), 'JWT'],
    ];
    for (const [signer, said, typ] of cases) {
      assert.equal(await present(signer, said, typ), 'CNS-016', JSON.stringify(said));
    }
    assert.deepEqual(await grantsOf('nia'), []);
    const good = `${signed}~${await agent.sign(binding(nonce), 'kb+jwt')}`;
    assert.equal(textOf(await bring(token, good)), 'ran get_thing');
    assert.equal((await grantsOf('nia')).length, 1);
  });

  test('who was withdrawn consents by nothing that comes along', async () => {
    const key = await keyOf('oda');
    const [token, consented] = [await tokenOf('oda'), await issuer.consentedToken('oda', url('own'), [detail()])];
    const signed = await key.sign(mandate(key, 'oda'), MANDATE);
    await gateway.cli('approvals', 'withdraw', '--issuer', issuer.url, 'oda');
    for (const answer of [await bring(token, signed), await callWith(consented)]) {
      assert.match(problemOf(answer).facts.rule, /withdrawn/);
    }
    await gateway.cli('approvals', 'reinstate', '--issuer', issuer.url, 'oda');
    assert.equal(textOf(await bring(token, signed)), 'ran get_thing');
    assert.equal(textOf(await callWith(consented)), 'ran get_thing');
  });

  test('the log verifies, and holds no name and no key binding', async () => {
    const { code, stdout, stderr } = await gateway.cliRaw('audit', 'verify');
    assert.equal(code, 0, stdout + stderr);
    const tail = (await gateway.cliRaw('audit', 'tail', '--limit', '1000')).stdout;
    for (const secret of ['trip planning', 'nia', issuer.url]) assert.ok(!tail.includes(secret));
    for (const action of ['grant.create', 'key.link', 'key.unlink']) assert.ok(tail.includes(action));
  });
});
