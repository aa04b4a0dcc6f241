// Checks the third-party parts by themselves, without the gateway: what fails here is the
// installation or a stock client, not the product. Run with `node --test` after
// scripts/install-e2e.sh.

import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import * as jose from 'jose';

import { NETWORK, startChain } from './lib/chain.mjs';
import { everythingStdio, startEverything } from './lib/everything.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { fetchAnyRail, fetchL402, walletAt } from './lib/l402http.mjs';
import { cloudflareClient, legacyClient, modernClient } from './lib/mcpclients.mjs';
import { python, pythonJson } from './lib/python.mjs';
import {
  INVOICE, MACAROON, PREIMAGE, paymentRequired, startPaidHttp, startPaidMcp, startWallet,
} from './lib/rehearsal.mjs';
import { recordingFetch } from './lib/wire.mjs';
import { callPaid, payer, payingFetch, signTransfer } from './lib/x402http.mjs';

const credential = `L402 ${MACAROON}:${PREIMAGE}`;

describe('chain', () => {
  let chain;
  before(async () => (chain = await startChain()));
  after(() => chain?.stop());

  test('an authorization of the stock client settles once', async () => {
    const { payload } = await payer(chain.payer.key).createPaymentPayload(
      paymentRequired(chain.merchant.address),
    );
    const { nonce, from } = payload.authorization;
    const earlier = await chain.balances();
    assert.equal(await chain.authorizationState(from, nonce), false);

    const receipt = await chain.settle(payload);

    const later = await chain.balances();
    assert.equal(later.merchant - earlier.merchant, 10_000n);
    assert.equal(earlier.payer - later.payer, 10_000n);
    assert.equal(await chain.authorizationState(from, nonce), true);
    const events = await chain.events('AuthorizationUsed');
    const used = events.filter((event) => event.args.nonce === nonce);
    assert.deepEqual(used.map((event) => event.args.authorizer), [from]);
    assert.equal(used[0].transaction, receipt.transactionHash);
    await assert.rejects(chain.settle(payload), /authorization is used or canceled/);
  });

  test('a cancelled, a foreign and an expired authorization do not settle', async () => {
    const to = chain.merchant.address;
    const cancelled = await signTransfer(chain.payer.key, { to, value: 1 });
    await chain.cancel(cancelled.authorization.nonce);
    await assert.rejects(chain.settle(cancelled), /authorization is used or canceled/);
    assert.equal((await chain.events('AuthorizationCanceled')).length, 1);

    const foreign = await signTransfer(chain.merchant.key, { to, value: 1 });
    foreign.authorization.from = chain.payer.address;
    await assert.rejects(chain.settle(foreign), /invalid signature/);

    const expired = await signTransfer(chain.payer.key, { to, value: 1, validBefore: 1 });
    await assert.rejects(chain.settle(expired), /authorization is expired/);
  });
});

describe('issuer', () => {
  const weather = 'http://127.0.0.1:8080/weather/mcp';
  const search = 'http://127.0.0.1:8080/search/mcp';
  let issuer;
  before(async () => {
    issuer = await startIssuer({ resources: [weather, { uri: search, alg: 'EdDSA' }] });
  });
  after(() => issuer?.stop());

  const verify = (token, audience) =>
    jose.jwtVerify(token, jose.createRemoteJWKSet(new URL(issuer.jwksUri)), {
      issuer: issuer.url, audience, typ: 'at+jwt',
    });

  test('publishes its metadata and one key per algorithm', async () => {
    const discovery = await fetch(`${issuer.url}/.well-known/openid-configuration`);
    assert.equal((await discovery.json()).jwks_uri, issuer.jwksUri);
    const { keys } = await (await fetch(issuer.jwksUri)).json();
    assert.deepEqual(keys.map((key) => key.alg).sort(), ['ES256', 'EdDSA', 'RS256']);
    assert.ok(keys.every((key) => key.d === undefined));
  });

  test('client credentials', async () => {
    const { payload } = await verify(await issuer.clientCredentials(weather), weather);
    assert.equal(payload.client_id, 'agent-m2m');
    assert.equal(payload.scope, 'mcp:call');
    assert.equal(payload.org_id, 'org_acme');
    const elsewhere = issuer.clientCredentials('https://elsewhere.example.com/');
    await assert.rejects(elsewhere, /invalid_target/);
  });

  test('authorization code with PKCE through the forms', async () => {
    const token = await issuer.userToken('alice', search);
    const { payload, protectedHeader } = await verify(token, search);
    assert.equal(protectedHeader.alg, 'EdDSA');
    assert.equal(payload.sub, 'alice');
    assert.equal(payload.client_id, 'web-agent');
    assert.equal(payload.acr, 'urn:example:acr:mfa');
    assert.deepEqual(payload.scope.split(' ').sort(), ['mcp:call', 'mcp:tools', 'pay:spend']);
  });

  test('hostile tokens fit an issuer and an audience', async () => {
    const out = mkdtempSync(path.join(os.tmpdir(), 'countersign-hostile-'));
    try {
      await python('mint_hostile.py', { args: [issuer.url, weather, out] });
      const keys = JSON.parse(readFileSync(path.join(out, 'jwks.json'), 'utf8'));
      const tokens = JSON.parse(readFileSync(path.join(out, 'tokens.json'), 'utf8'));
      for (const name of Object.keys(tokens).filter((name) => name.startsWith('ok-'))) {
        await jose.jwtVerify(tokens[name], jose.createLocalJWKSet(keys), {
          issuer: issuer.url, audience: weather,
        });
      }
      assert.ok(Object.keys(tokens).length > 60);
    } finally {
      rmSync(out, { recursive: true });
    }
  });
});

describe('MCP clients and server', () => {
  let everything;
  before(async () => (everything = await startEverything()));
  after(() => everything?.stop());

  test('the legacy SDK lists and calls tools', async () => {
    const { fetch, wire } = recordingFetch();
    const client = await legacyClient(everything.url, { token: 'T', fetch });
    const names = (await client.listTools()).tools.map((tool) => tool.name);
    assert.ok(names.includes('echo'), names.join());
    const result = await client.callTool({ name: 'echo', arguments: { message: 'hello' } });
    assert.equal(result.content[0].text, 'Echo: hello');
    assert.ok(wire.every((exchange) => exchange.headers.authorization === 'Bearer T'));
    await client.close();
  });

  test('the modern SDK falls back to it when allowed, and only then', async () => {
    await assert.rejects(modernClient(everything.url), /did not offer pinned protocol version/);
    const client = await modernClient(everything.url, { mode: 'auto' });
    assert.equal(client.getProtocolEra(), 'legacy');
    await client.close();
  });

  test('it has a stdio form', () => assert.equal(everythingStdio.args.at(-1), 'stdio'));
});

describe('paying clients', () => {
  const { key, address } = {
    key: `0x${'11'.repeat(32)}`,
    address: '0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A',
  };
  const payTo = '0x90F79bf6EB2c4f870365E785982E1f101E93b906';
  const parts = {};
  before(async () => {
    parts.wallet = await startWallet();
    parts.l402 = await startPaidHttp('l402');
    parts.x402 = await startPaidHttp('x402', payTo);
    parts.mcp = await startPaidMcp(payTo);
  });
  after(() => Promise.all(Object.values(parts).map((part) => part.stop())));

  test('@x402/fetch pays and echoes the offer', async () => {
    const response = await payingFetch(key)(`${parts.x402.url}/paid`);
    const { paid } = await response.json();
    assert.deepEqual(paid.accepted, paymentRequired(payTo).accepts[0]);
    assert.deepEqual(paid.extensions, paymentRequired(payTo).extensions);
    assert.equal(paid.payload.authorization.from, address);
  });

  test('x402 inside MCP, as an object', async () => {
    const client = await legacyClient(parts.mcp.url);
    const { payment, result } = await callPaid(client, key, { name: 'paid', arguments: {} });
    assert.equal(payment.accepted.network, NETWORK);
    assert.equal(result._meta['x402/payment-response'].success, true);
    await client.close();
  });

  test('x402 inside MCP as Cloudflare has it, as a string', async () => {
    const inner = await legacyClient(parts.mcp.url);
    const client = await cloudflareClient(inner, { key });
    const result = await client.callTool(() => true, { name: 'paid', arguments: {} });
    const sent = JSON.parse(result.content[0].text);
    assert.equal(typeof sent, 'string');
    assert.equal(JSON.parse(atob(sent)).payload.authorization.from, address);
    await inner.close();
  });

  test('x402 inside MCP from Python', async () => {
    const job = { url: parts.mcp.url, token: 'T', key, calls: [{ tool: 'paid' }] };
    const { tools, results } = await pythonJson('x402_mcp.py', { job });
    assert.deepEqual(tools, ['paid']);
    assert.equal(results[0].payment_made, true);
    assert.equal(results[0].payment_response.success, true);
    assert.equal(parts.mcp.requests.at(-1).headers.authorization, 'Bearer T');
  });

  for (const [name, stock] of Object.entries({ fetchL402, fetchAnyRail })) {
    test(`L402 over HTTP: ${name}`, async () => {
      const wallet = walletAt(parts.wallet.url);
      const response = await stock(wallet, `${parts.l402.url}/paid`);
      assert.equal((await response.json()).authorization, credential);
      assert.deepEqual(wallet.paid, [INVOICE]);
    });
  }

  test('L402 over HTTP from Python, with its cache', async () => {
    const request = { method: 'GET', url: `${parts.l402.url}/paid` };
    const { responses, spent_sats } = await pythonJson('l402_http.py', {
      job: { requests: [request, request], max_sats: 300_000 },
      env: { WALLET_URL: parts.wallet.url },
    });
    for (const { body } of responses) assert.equal(JSON.parse(body).authorization, credential);
    assert.equal(spent_sats, 250_000);
  });

  test('L402 inside MCP from Python', async () => {
    const { results, paid } = await pythonJson('bolthub_mcp.py', {
      job: { url: parts.mcp.url, max_sats: 300_000, calls: [{ tool: 'paid' }] },
      env: { WALLET_URL: parts.wallet.url },
    });
    const proof = { scheme: 'l402', proof: `${MACAROON}:${PREIMAGE}` };
    assert.deepEqual(JSON.parse(results[0].content[0].text), proof);
    assert.equal(paid.length, 1);
  });
});

test('every Python part imports', async () => {
  assert.match(await python('imports.py'), /l402-requests 0\.9\.0/);
});

test('a gateway binary is started, asked, crashed, restarted and stopped', async () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-stand-in-'));
  const bin = path.join(dir, 'stand-in');
  writeFileSync(bin, standIn);
  chmodSync(bin, 0o755);
  try {
    const gateway = await startGateway({ bin, config: ({ port }) => ({ port }) });
    assert.deepEqual(await gateway.cli('verify', '--all'), ['verify', '--all']);
    await assert.rejects(gateway.cli('fail'), /exit 3/);
    await gateway.kill9();
    assert.equal(gateway.isRunning(), false);
    await gateway.restart();
    assert.equal((await fetch(`${gateway.url}/healthz`)).status, 200);
    await gateway.stop();
    assert.equal(gateway.stderr(), 'serving\nserving\n');
    await assert.rejects(fetch(`${gateway.url}/healthz`));
    await assert.rejects(
      startGateway({ bin, config: {}, args: ['--broken'] }),
      /the process ended first/,
    );
  } finally {
    rmSync(dir, { recursive: true });
  }
});

const standIn = `#!/usr/bin/env node
const [first, second, file, ...rest] = process.argv.slice(2);
if (first === 'serve') {
  if (rest.includes('--broken')) process.exit(1);
  const { port } = JSON.parse(require('node:fs').readFileSync(file, 'utf8'));
  const status = (url) => (url === '/healthz' ? 200 : 404);
  require('node:http')
    .createServer((request, response) => response.writeHead(status(request.url)).end())
    .listen(port, '127.0.0.1', () => console.error('serving'));
} else {
  const args = process.argv.slice(4);
  if (args[0] === 'fail') process.exit(3);
  console.log(JSON.stringify(args));
}
`;
