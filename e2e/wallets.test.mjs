// Wallets that are linked to people by a signature (CAIP-122, EIP-4361, EIP-191), and calls that
// only such a wallet may pay: on a real chain, with viem's accounts.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts';
import { parseSiweMessage, validateSiweMessage } from 'viem/siwe';

import { startChain } from './lib/chain.mjs';
import {
  Parts, assets, builtinFacilitator, facilitatorEnv, grant, issuerConfig, problemOf, textOf,
} from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { legacyClient } from './lib/mcpclients.mjs';
import { freePort } from './lib/process.mjs';
import { startOwnServer } from './lib/tap.mjs';
import { callPaid } from './lib/x402http.mjs';

const parts = new Parts();
let chain, own, issuer, gateway, url;

before(() =>
  parts.starting(async () => {
    const port = await freePort();
    url = `http://127.0.0.1:${port}/own/mcp`;
    chain = await parts.keep('chain', startChain());
    own = await parts.keep('own', startOwnServer({
      answer: ({ params }) =>
        JSON.stringify({ content: [{ type: 'text', text: `ran ${params.name}` }] }),
    }));
    issuer = await parts.keep('issuer', startIssuer({ resources: [url] }));
    gateway = await parts.keep('gateway', startGateway({
      port,
      env: facilitatorEnv(chain),
      config: {
        listen: `127.0.0.1:${port}`,
        issuers: [issuerConfig(issuer)],
        assets,
        rails: { x402: { pay_to: chain.merchant.address, facilitator: builtinFacilitator(chain) } },
        servers: {
          own: {
            upstream: own.url,
            tools: {
              get_thing: { price: '0.01 USDC' },
              get_own: { price: '0.01 USDC', payer: 'linked' },
            },
          },
        },
      },
    }));
  }),
);
after(() => parts.stop());

const whose = (subject) => ['--tenant', 'org_acme', '--issuer', issuer.url, '--subject', subject];
const people = (...args) => gateway.cliRaw('people', 'wallet', ...args);

/** The message that a wallet is asked to sign for a person. */
async function ask(subject, address) {
  const { message } = await gateway.cli('people', 'wallet', 'ask', ...whose(subject), '--address', address);
  return message;
}

/** Links, or tries to: {code, stdout, stderr}. */
function link(subject, message, signature) {
  const file = path.join(gateway.dir, `${Math.random()}.txt`);
  writeFileSync(file, message);
  return people('link', ...whose(subject), '--message', file, '--signature', signature, '--name', 'daily');
}

async function linked(subject, account) {
  const message = await ask(subject, account.address);
  const done = await link(subject, message, await account.signMessage({ message }));
  assert.equal(done.code, 0, done.stderr);
  return JSON.parse(done.stdout);
}

/** One call of `name`'s agent, paid by a wallet. */
async function pays(name, key, tool = 'get_thing') {
  const client = await legacyClient(url, { token: await issuer.userToken(name, url) });
  try {
    return await callPaid(client, key, { name: tool, arguments: {} });
  } finally {
    await client.close();
  }
}

const consents = (subject, changes = {}) =>
  grant(gateway, issuer, { server: 'own', subject, 'per-call': '1 USD', ...changes });

test('the message is a Sign-In with Ethereum message of this gateway', async () => {
  const account = privateKeyToAccount(generatePrivateKey());
  const message = await ask('ada', account.address);
  const read = parseSiweMessage(message);
  const domain = new URL(gateway.url).host;
  assert.ok(validateSiweMessage({ message: read, address: account.address, domain, nonce: read.nonce }));
  assert.deepEqual(
    [read.version, read.chainId, read.uri, read.expirationTime - read.issuedAt],
    ['1', 84532, gateway.url, 600_000],
  );
  assert.match(read.statement, /Link this wallet to ada at .* in org_acme/);
  assert.notEqual(parseSiweMessage(await ask('ada', account.address)).nonce, read.nonce);
});

test('a wallet is linked by its signature, listed, and unlinked', async () => {
  const account = privateKeyToAccount(generatePrivateKey());
  const made = await linked('bea', account);
  assert.deepEqual([made.public, made.subject, made.name], [account.address, 'bea', 'daily']);
  const list = async () => (await gateway.cli('people', 'wallet', 'list', '--subject', 'bea')).items;
  assert.deepEqual((await list()).map(({ id }) => id), [account.address.toLowerCase()]);
  await gateway.kill9();
  await gateway.restart();
  assert.equal((await list()).length, 1, 'durable');
  await gateway.cli('people', 'wallet', 'unlink', account.address);
  assert.deepEqual(await list(), []);
});

test('a challenge counts once, for one person, one wallet and ten minutes', async () => {
  const account = privateKeyToAccount(generatePrivateKey());
  const other = privateKeyToAccount(generatePrivateKey());
  const message = await ask('cleo', account.address);
  const signature = await account.signMessage({ message });
  const refused = async (subject, text, signed) => {
    const { code, stderr, stdout } = await link(subject, text, signed);
    assert.notEqual(code, 0, stdout);
    return stderr;
  };
  const changed = (from, to) => message.replace(from, to);
  const resigned = async (text) => refused('cleo', text, await account.signMessage({ message: text }));
  const read = parseSiweMessage(message);
  assert.match(await refused('mallory', message, signature), /ADM-001.*message/s, 'another person');
  assert.match(await refused('cleo', message, await other.signMessage({ message })), /another wallet/);
  for (const text of [
    changed(account.address, other.address),
    changed('cleo', 'mallory'),
    changed('Chain ID: 84532', 'Chain ID: 1'),
    changed(new URL(gateway.url).host, 'evil.example'),
    changed(`URI: ${gateway.url}`, 'URI: https://evil.example'),
    changed(read.expirationTime.toISOString(), '2099-01-01T00:00:00.000Z'),
    changed(read.nonce, '0123456789abcdef'.repeat(4)),
    `${message}\nResources:\n- https://evil.example`,
  ]) {
    assert.match(await resigned(text), /ADM-001.*message/s, text);
  }
  const tail = signature.slice(-2) === '1b' ? '1c' : '1b';
  for (const wrong of ['0x', '0x00', 'zz', `${signature}00`, signature.slice(0, -2) + tail]) {
    assert.match(await refused('cleo', message, wrong), /ADM-001.*signature/s, wrong);
  }
  assert.equal((await link('cleo', message, signature)).code, 0, 'the right one is right');
  assert.match(await refused('cleo', message, signature), /ADM-003/, 'linked already');
  await gateway.cli('people', 'wallet', 'unlink', account.address);
  assert.match(await refused('cleo', message, signature), /answered before/, 'once');
  await linked('cleo', account);
  const forOther = await ask('dan', account.address);
  assert.match(await refused('dan', forOther, await account.signMessage({ message: forOther })), /linked already/);
});

test('a tool that wants a linked wallet takes no other, before any money moves', async () => {
  await consents('eve');
  const none = await pays('eve', chain.payer.key, 'get_own');
  assert.equal(problemOf(none.result).code, 'CNS-017', 'no wallet, so no money is asked for');
  assert.equal(none.payment, undefined);
  const own = privateKeyToAccount(generatePrivateKey());
  await linked('eve', own);
  const before = await chain.balance(chain.merchant.address);
  const foreign = await pays('eve', chain.payer.key, 'get_own');
  assert.equal(problemOf(foreign.result).code, 'CNS-017', 'a wallet that is not theirs');
  assert.equal(problemOf(foreign.result).charged, 'no');
  assert.equal(await chain.balance(chain.merchant.address), before, 'nothing was settled');
  await linked('eve', privateKeyToAccount(chain.payer.key));
  assert.equal(textOf((await pays('eve', chain.payer.key, 'get_own')).result), 'ran get_own');
  assert.equal(await chain.balance(chain.merchant.address), before + 10_000n);
  await gateway.cli('people', 'wallet', 'unlink', chain.payer.address);
  assert.equal(problemOf((await pays('eve', chain.payer.key, 'get_own')).result).code, 'CNS-017');
});

test('a grant may want one of the person\'s wallets, or name them', async () => {
  await consents('fay', { payer: 'linked' });
  assert.equal(problemOf((await pays('fay', chain.payer.key)).result).code, 'CNS-017');
  await linked('fay', privateKeyToAccount(chain.payer.key));
  assert.equal(textOf((await pays('fay', chain.payer.key)).result), 'ran get_thing');
  await consents('gil', { payer: privateKeyToAccount(generatePrivateKey()).address });
  assert.equal(problemOf((await pays('gil', chain.payer.key)).result).code, 'CNS-014');
});

test('the log verifies, and names no wallet and no person', async () => {
  const { code, stdout, stderr } = await gateway.cliRaw('audit', 'verify');
  assert.equal(code, 0, stdout + stderr);
  const tail = (await gateway.cliRaw('audit', 'tail', '--limit', '1000')).stdout;
  for (const action of ['wallet.link', 'wallet.unlink']) assert.ok(tail.includes(action), action);
  for (const name of [chain.payer.address, chain.payer.address.toLowerCase(), 'cleo', issuer.url]) {
    assert.ok(!tail.includes(name), name);
  }
});
