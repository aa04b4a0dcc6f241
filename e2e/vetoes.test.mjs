// Each proof vetoes by itself, says what to do about it, and costs nothing; when all four align,
// the call runs.

import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { startChain } from './lib/chain.mjs';
import { startEverything } from './lib/everything.mjs';
import {
  Parts,
  assets,
  builtinFacilitator,
  buyL402,
  call,
  callOf,
  facilitatorEnv,
  grant,
  issuerConfig,
  l402Meta,
  post,
  problemOf,
  receiptOf,
  textOf,
} from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { legacyClient } from './lib/mcpclients.mjs';
import { freePort } from './lib/process.mjs';
import { startSandbox } from './lib/sandbox.mjs';
import { startOwnServer, startTap } from './lib/tap.mjs';
import { bearer } from './lib/wire.mjs';
import { callPaid, challengeOf, payer } from './lib/x402http.mjs';

const CENT = 10_000n;
const bundle = fileURLToPath(new URL('../crates/gateway/policy/', import.meta.url));

const parts = new Parts();
let chain, sandbox, own, tap, issuer, gateway, url;
const token = {};

before(() =>
  parts.starting(async () => {
    const port = await freePort();
    url = (server) => `http://127.0.0.1:${port}/${server}/mcp`;
    const everything = await parts.keep('everything', startEverything());
    chain = await parts.keep('chain', startChain());
    sandbox = await parts.keep('sandbox', startSandbox());
    tap = await parts.keep(
      'tap',
      startTap(() => everything.url),
    );
    own = await parts.keep(
      'own',
      startOwnServer({
        answer: ({ params }) =>
          JSON.stringify({ content: [{ type: 'text', text: `ran ${params.name}` }] }),
      }),
    );
    issuer = await parts.keep('issuer', startIssuer({ resources: ['main', 'own'].map(url) }));
    gateway = await parts.keep(
      'gateway',
      startGateway({
        port,
        env: facilitatorEnv(chain),
        config: configuration(port),
      }),
    );
    // Everybody below is a person of their own, so that no test sees another's grants.
    token.main = await issuer.userToken('alice', url('main'));
    token.machine = await issuer.clientCredentials(url('own'));
  }),
);

after(() => parts.stop());

const configuration = (port, changes = {}) => ({
  listen: `127.0.0.1:${port}`,
  sandbox: true,
  issuers: [issuerConfig(issuer)],
  assets,
  rails: {
    x402: { pay_to: chain.merchant.address, facilitator: builtinFacilitator(chain) },
    l402: { source: { sandbox: sandbox.lightning }, hold: false },
  },
  servers: {
    main: { upstream: tap.url, tools: { echo: { price: '0.01 USDC' } } },
    own: {
      upstream: own.url,
      tools: {
        get_thing: { price: ['0.01 USDC', '16 sat'] },
        get_limited: { price: '0.01 USDC' },
        get_crowded: { price: '0.01 USDC' },
        get_costly: { price: ['1.50 USDC', '2500 sat'] },
        get_secret: { price: '0.01 USDC', sensitivity: 3, consent: 'none' },
        get_personal: { price: '0.01 USDC', identity: 'human', consent: 'none' },
        delete_thing: { price: '0.05 USDC' },
      },
    },
  },
  budgets: [
    {
      name: 'limited',
      scope: { tool: 'own/get_limited', delegator: '*' },
      limit: '0.02 USD',
      window: '24h',
    },
    { name: 'crowded', scope: { tool: 'own/get_crowded' }, limit: '0.07 USD', window: '24h' },
  ],
  ...changes,
});

/** A person with a token, and a grant unless told otherwise. */
async function person(login, terms = {}) {
  const token = await issuer.userToken(login, url('own'));
  const given =
    terms && (await grant(gateway, issuer, { server: 'own', subject: login, ...terms }));
  return { token, grant: given?.grant.id };
}

const thing = (who, args, more = {}) =>
  call(url('own'), { token: who.token, name: 'get_thing', args, ...more });

/** Signs what a challenge asks for, whatever it is. */
const x402For = async (answer) => ({
  'x402/payment': await payer(chain.payer.key).createPaymentPayload(
    challengeOf(answer.json.result),
  ),
});

/** Asserts a refusal with all that an agent needs of it; returns its problem object. */
async function refused(asking, { code, charged = 'no', actor, retry, proofs }, runs = own.calls()) {
  const answer = await asking();
  const problem = problemOf(answer);
  assert.equal(problem?.code, code, answer.text);
  assert.equal(problem.type, `urn:countersign:refusal:${code}`);
  assert.equal(problem.charged, charged);
  assert.equal(problem.next.actor, actor);
  assert.ok(problem.next.action.length > 0 && problem.title.length > 0);
  assert.equal(problem.retry, retry);
  assert.equal(problem.retryable, retry !== 'never');
  assert.deepEqual(
    ['identity', 'consent', 'payment', 'authorization'].map((light) => problem.proofs[light]),
    proofs,
    'lights',
  );
  assert.match(problem.call_id, /^call_[0-9a-f]{32}$/);
  assert.equal(own.calls(), runs, 'nothing ran');
  const texts = answer.json.result?.content.map(({ text }) => text).join('\n');
  if (texts) assert.ok(texts.includes(code), 'the model is told too');
  return { answer, problem };
}

const balances = async () => ({
  payer: await chain.balance(chain.payer.address),
  wallet: (await sandbox.balances()).wallet_msat,
});

async function costsNothing(step) {
  const before = await balances();
  const value = await step();
  assert.deepEqual(await balances(), before, 'no money moved');
  return value;
}

describe('identity', () => {
  test('no token', () =>
    costsNothing(() =>
      refused(() => thing({}, { n: 1 }), {
        code: 'IDN-001',
        actor: 'client',
        retry: 'after_action',
        proofs: ['missing', 'not_reached', 'not_reached', 'not_reached'],
      }),
    ));

  test("a program's token where a person is needed", async () => {
    const personal = (token) => call(url('own'), { token, name: 'get_personal' });
    const { answer } = await refused(() => personal(token.machine), {
      code: 'IDN-011',
      actor: 'human',
      retry: 'after_action',
      proofs: ['refused', 'not_reached', 'not_reached', 'not_reached'],
    });
    assert.equal(answer.status, 403);
    const { token: bertas } = await person('berta', null);
    assert.equal(problemOf(await personal(bertas)).code, 'PAY-001', 'a person gets further');
  });

  test('an expired token, a token that was tampered with', async () => {
    const claims = {
      aud: url('own'),
      sub: 'alice',
      client_id: 'web-agent',
      org_id: 'org_acme',
      auth_time: 1,
    };
    const now = Math.floor(Date.now() / 1000);
    const expired = await issuer.sign({ ...claims, iat: now - 600, exp: now - 1 });
    const identity = {
      actor: 'client',
      retry: 'after_action',
      proofs: ['refused', 'not_reached', 'not_reached', 'not_reached'],
    };
    await refused(() => thing({ token: expired }), { code: 'IDN-004', ...identity });
    const good = await issuer.sign({ ...claims, iat: now, exp: now + 60 });
    const [head, , signature] = good.split('.');
    const body = Buffer.from(
      JSON.stringify({ ...claims, iss: issuer.url, sub: 'bob', iat: now, exp: now + 60 }),
    );
    const forged = [head, body.toString('base64url'), signature].join('.');
    await refused(() => thing({ token: forged }), { code: 'IDN-003', ...identity });
  });
});

describe('consent', () => {
  const noConsent = (code, light = 'refused') => ({
    code,
    actor: 'human',
    retry: 'after_action',
    proofs: ['ok', light, 'not_reached', 'not_reached'],
  });

  test('no grant: what to approve, as a command that works', async () => {
    const carla = await person('carla', null);
    const { problem } = await costsNothing(() =>
      refused(() => thing(carla, { n: 1 }), noConsent('CNS-001', 'missing')),
    );
    const words = problem.facts.approve_with
      .match(/'[^']*'|\S+/g)
      .map((w) => w.replace(/^'|'$/g, ''));
    assert.equal(words[0], 'countersign');
    await gateway.cli(...words.slice(1));
    assert.equal(
      problemOf(await thing(carla, { n: 1 })).code,
      'PAY-001',
      'then money is asked for',
    );
  });

  test('by HTTP, the status says so', async () => {
    const { token } = await person('curt', null);
    const answer = await post(url('own'), callOf('get_thing'), { ...bearer(token), accept: '*/*' });
    assert.equal(answer.status, 403);
    assert.match(answer.headers.get('content-type'), /^application\/problem\+json/);
    assert.equal(answer.json.code, 'CNS-001');
  });

  test('a grant to another agent, tool or person is none', async () => {
    const doris = await person('doris', null);
    for (const other of [
      { agent: 'agent-m2m' },
      { tools: ['get_costly'] },
      { subject: 'dora' },
      { server: 'main' },
      { tenant: 'org_other' },
    ]) {
      await grant(gateway, issuer, { server: 'own', subject: 'doris', ...other });
      assert.equal(problemOf(await thing(doris, { n: 1 })).code, 'CNS-001', JSON.stringify(other));
    }
  });

  test('the price is above the cap per call', async () => {
    const emil = await person('emil', { 'per-call': '0.009 USD' });
    await refused(() => thing(emil, { n: 1 }), noConsent('CNS-005'));
  });

  test('who is paid is not who may be', async () => {
    const limited = (who) => () => call(url('own'), { token: who.token, name: 'get_limited', args: {} });
    const elsewhere = await person('elsa', { payee: chain.payer.address });
    const { problem } = await refused(limited(elsewhere), noConsent('CNS-013'));
    assert.equal(problem.charged, 'no');
    const there = await person('egon', { payee: chain.merchant.address });
    assert.equal(problemOf(await limited(there)()).code, 'PAY-001');
  });

  test('the intent is not included', async () => {
    const fred = await person('fred', { intents: ['search'] });
    await refused(() => thing(fred, { n: 1 }), noConsent('CNS-007'));
  });

  test('of several grants the one that is nearest says why not', async () => {
    const nils = await person('nils');
    await gateway.cli('grant', 'revoke', nils.grant);
    await grant(gateway, issuer, { server: 'own', subject: 'nils', 'per-call': '0.009 USD' });
    const ended = await grant(gateway, issuer, { server: 'own', subject: 'nils' });
    await gateway.cli('grant', 'revoke', ended.grant.id);
    await refused(() => thing(nils, { n: 1 }), noConsent('CNS-005'));
  });

  test('the total is used up', async () => {
    const gina = await person('gina', { total: '0.01 USD' });
    const first = await thing(gina, { n: 1 });
    assert.equal(
      textOf(await thing(gina, { n: 1 }, { meta: await x402For(first) })),
      'ran get_thing',
    );
    await costsNothing(() => refused(() => thing(gina, { n: 2 }), noConsent('CNS-006')));
  });

  test('suspended, resumed, revoked: each at once', async () => {
    const hans = await person('hans');
    const asked = await thing(hans, { n: 1 });
    assert.equal(problemOf(asked).code, 'PAY-001');
    const meta = await x402For(asked);
    await gateway.cli('grant', 'suspend', hans.grant);
    await costsNothing(() => refused(() => thing(hans, { n: 1 }, { meta }), noConsent('CNS-004')));
    await gateway.cli('grant', 'resume', hans.grant);
    assert.equal(
      textOf(await thing(hans, { n: 1 }, { meta })),
      'ran get_thing',
      'the payment was unused',
    );

    const again = await thing(hans, { n: 2 });
    const second = await x402For(again);
    await gateway.cli('grant', 'revoke', hans.grant);
    await costsNothing(() =>
      refused(() => thing(hans, { n: 2 }, { meta: second }), noConsent('CNS-003')),
    );
    await refused(() => thing(hans, { n: 3 }), noConsent('CNS-003'));
  });

  test('expired', async () => {
    const ida = await person('ida', { expires: '1s' });
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    await refused(() => thing(ida, { n: 1 }), noConsent('CNS-002'));
  });
});

describe('payment', () => {
  test('none: asked for only when all else has said yes', async () => {
    const jack = await person('jack');
    const { answer } = await costsNothing(() =>
      refused(() => thing(jack, { n: 1 }), {
        code: 'PAY-001',
        actor: 'client',
        retry: 'after_action',
        proofs: ['ok', 'ok', 'missing', 'ok'],
      }),
    );
    assert.equal(challengeOf(answer.json.result).accepts.length, 1);
  });

  const proofs = ['ok', 'ok', 'not_reached', 'refused'];

  test('a paid credential that changed policy refuses stays usable', async () => {
    const kim = await person('kim');
    const asked = await thing(kim, { n: 1 });
    const meta = l402Meta(await buyL402(asked, sandbox.pay));

    const dir = path.join(gateway.dir, 'policy');
    mkdirSync(dir);
    for (const file of ['schema.cedarschema', 'policies.cedar'])
      cpSync(bundle + file, path.join(dir, file));
    writeFileSync(
      path.join(dir, 'policies.cedar'),
      `${readFileSync(path.join(bundle, 'policies.cedar'))}
@id("closed.today")
@reason("CLOSED_TODAY")
forbid (principal, action, resource == Tool::"own/get_thing");
`,
    );
    gateway.configure(configuration(gateway.port, { policy: { dir } }));
    await gateway.restart();
    const { problem } = await costsNothing(() =>
      refused(() => thing(kim, { n: 1 }, { meta }), {
        code: 'POL-001',
        charged: 'unused',
        actor: 'operator',
        retry: 'never',
        proofs,
      }),
    );
    assert.match(JSON.stringify(problem.facts), /CLOSED_TODAY/);

    gateway.configure(configuration(gateway.port));
    await gateway.restart();
    const answer = await costsNothing(() => thing(kim, { n: 1 }, { meta }));
    assert.equal(textOf(answer), 'ran get_thing', answer.text);
    assert.ok(receiptOf(answer));
    const runs = own.calls();
    const again = await costsNothing(() => thing(kim, { n: 1 }, { meta }));
    assert.match(again.json.result._meta['countersign/replay-of'], /^call_/, 'and once');
    assert.equal(own.calls(), runs);
  });

  test('a paid credential without its grant stays usable for the next one', async () => {
    const leo = await person('leo');
    const asked = await thing(leo, { n: 1 });
    const meta = l402Meta(await buyL402(asked, sandbox.pay));
    await gateway.cli('grant', 'revoke', leo.grant);
    await costsNothing(() =>
      refused(() => thing(leo, { n: 1 }, { meta }), {
        code: 'CNS-003',
        charged: 'unused',
        actor: 'human',
        retry: 'after_action',
        proofs: ['ok', 'refused', 'not_reached', 'not_reached'],
      }),
    );
    await grant(gateway, issuer, { server: 'own', subject: 'leo' });
    assert.equal(textOf(await costsNothing(() => thing(leo, { n: 1 }, { meta }))), 'ran get_thing');
  });

  test('a credential used for another call is still good for its own', async () => {
    const mara = await person('mara');
    const asked = await thing(mara, { n: 1 });
    const meta = l402Meta(await buyL402(asked, sandbox.pay));
    await refused(() => thing(mara, { n: 2 }, { meta }), {
      code: 'PAY-017',
      charged: 'unused',
      actor: 'client',
      retry: 'after_action',
      proofs: ['ok', 'ok', 'refused', 'ok'],
    });
    assert.equal(textOf(await thing(mara, { n: 1 }, { meta })), 'ran get_thing');
  });
});

describe('policy', () => {
  test('forbids, with its reasons', async () => {
    const { problem } = await costsNothing(() =>
      refused(() => call(url('own'), { token: token.machine, name: 'get_secret' }), {
        code: 'POL-001',
        actor: 'operator',
        retry: 'never',
        proofs: ['ok', 'not_required', 'not_reached', 'refused'],
      }),
    );
    assert.match(JSON.stringify(problem.facts), /SECRET_NEEDS_PERSON/);
  });

  test('an intent that does not cover what the tool does', async () => {
    const nora = await person('nora');
    const meta = { 'countersign/intent': { intent: 'read', purpose: 'just looking' } };
    await refused(() => call(url('own'), { token: nora.token, name: 'delete_thing', meta }), {
      code: 'POL-004',
      actor: 'client',
      retry: 'never',
      proofs: ['ok', 'ok', 'not_reached', 'refused'],
    });
  });
});

describe('budgets', () => {
  const exceeded = {
    code: 'BUD-001',
    actor: 'human',
    retry: 'later',
    proofs: ['ok', 'ok', 'not_reached', 'refused'],
  };

  test('used up: refused before money is asked for, for this person only', async () => {
    const [olga, paul] = [await person('olga'), await person('paul')];
    const limited = (who, n, meta) =>
      call(url('own'), { token: who.token, name: 'get_limited', args: { n }, meta });
    for (const n of [1, 2]) {
      const answer = await limited(olga, n, await x402For(await limited(olga, n)));
      assert.equal(textOf(answer), 'ran get_limited', answer.text);
    }
    await costsNothing(() => refused(() => limited(olga, 3), exceeded));
    assert.equal(problemOf(await limited(paul, 3)).code, 'PAY-001');
  });

  test('eight paid calls at once against a budget for seven', async () => {
    const quinn = await person('quinn');
    const crowded = (n, meta) =>
      call(url('own'), { token: quinn.token, name: 'get_crowded', args: { n }, meta });
    const paid = await Promise.all(
      Array.from({ length: 8 }, async (_, n) => x402For(await crowded(n))),
    );
    const [runs, before] = [own.calls('get_crowded'), await chain.balance(chain.payer.address)];
    const answers = await Promise.all(paid.map((meta, n) => crowded(n, meta)));
    const codes = answers.map((answer) => problemOf(answer)?.code ?? 'ran').sort();
    assert.deepEqual(codes, ['BUD-001', ...Array(7).fill('ran')]);
    const late = answers.find((answer) => problemOf(answer));
    assert.equal(problemOf(late).charged, 'no');
    assert.equal(own.calls('get_crowded') - runs, 7);
    assert.equal(before - (await chain.balance(chain.payer.address)), 7n * CENT);
  });

  test('a window of the grant', async () => {
    const rosa = await person('rosa', { windows: ['0.01 USD/24h'] });
    const first = await thing(rosa, { n: 1 });
    assert.equal(
      textOf(await thing(rosa, { n: 1 }, { meta: await x402For(first) })),
      'ran get_thing',
    );
    await costsNothing(() => refused(() => thing(rosa, { n: 2 }), exceeded));
  });
});

describe('a person must approve', () => {
  const pending = {
    code: 'CNS-008',
    actor: 'human',
    retry: 'after_action',
    proofs: ['ok', 'ok', 'not_reached', 'pending'],
  };
  const asks = async (who, name, args) => {
    const asking = (meta) => call(url('own'), { token: who.token, name, args, meta });
    const { problem } = await costsNothing(() => refused(asking, pending));
    return { asking, approval: problem.facts.approval };
  };

  test('what removes: pending, seen, approved, paid, run, once', async () => {
    const sara = await person('sara');
    const { asking, approval } = await asks(sara, 'delete_thing', { id: 7 });
    const { problem } = await refused(asking, pending);
    assert.equal(problem.facts.approval, approval, 'asking again opens no second one');
    const { items } = await gateway.cli('approvals', 'list');
    const waiting = items.find((item) => item.id === approval);
    assert.equal(waiting.tool, 'own/delete_thing');
    assert.equal(waiting.agent, 'web-agent');
    assert.ok(!JSON.stringify(waiting).includes('"id":7'), 'arguments are not shown');

    await gateway.cli('approvals', 'approve', approval, '--reason', 'looked at it');
    const other = () =>
      call(url('own'), { token: sara.token, name: 'delete_thing', args: { id: 8 } });
    await refused(other, pending);
    const asked = await asking();
    assert.equal(problemOf(asked).code, 'PAY-001', asked.text);
    const before = await chain.balance(chain.payer.address);
    const answer = await asking(await x402For(asked));
    assert.equal(textOf(answer), 'ran delete_thing', answer.text);
    assert.equal(before - (await chain.balance(chain.payer.address)), 5n * CENT);
    await refused(asking, pending);
  });

  test('what costs more than a dollar', async () => {
    const theo = await person('theo');
    const { asking, approval } = await asks(theo, 'get_costly', { n: 1 });
    await gateway.cli('approvals', 'approve', approval);
    const asked = await asking();
    assert.equal(problemOf(asked).code, 'PAY-001', asked.text);
    const before = await balances();
    const answer = await asking(l402Meta(await buyL402(asked, sandbox.pay)));
    assert.equal(textOf(answer), 'ran get_costly', answer.text);
    assert.equal(before.wallet - (await balances()).wallet, 2_500_000);
  });

  test('denied: the reason reaches the agent', async () => {
    const ursula = await person('ursula');
    const { asking, approval } = await asks(ursula, 'delete_thing', { id: 9 });
    await gateway.cli('approvals', 'deny', approval, '--reason', 'that one is still needed');
    const { answer, problem } = await costsNothing(() =>
      refused(asking, {
        code: 'CNS-009',
        actor: 'human',
        retry: 'never',
        proofs: ['ok', 'refused', 'not_reached', 'not_reached'],
      }),
    );
    assert.equal(problem.facts.reason, 'that one is still needed');
    assert.match(textOf(answer), /that one is still needed/);
    const late = await gateway.cliRaw('approvals', 'approve', approval);
    assert.notEqual(late.code, 0, 'answered once');
  });

  test('an approval that is paid for, and a grant that goes meanwhile', async () => {
    const vera = await person('vera');
    const { asking, approval } = await asks(vera, 'delete_thing', { id: 10 });
    await gateway.cli('approvals', 'approve', approval);
    const meta = await x402For(await asking());
    await gateway.cli('grant', 'revoke', vera.grant);
    await costsNothing(() =>
      refused(() => asking(meta), {
        code: 'CNS-003',
        actor: 'human',
        retry: 'after_action',
        proofs: ['ok', 'refused', 'not_reached', 'not_reached'],
      }),
    );
    await grant(gateway, issuer, { server: 'own', subject: 'vera' });
    assert.equal(textOf(await asking(meta)), 'ran delete_thing', 'the approval was not spent');
  });

  test('by HTTP, the status says so', async () => {
    const { token } = await person('walt');
    const answer = await post(url('own'), callOf('delete_thing'), {
      ...bearer(token),
      accept: '*/*',
    });
    assert.equal(answer.status, 403);
    assert.equal(answer.json.code, 'CNS-008');
    assert.equal(answer.json.proofs.authorization, 'pending');
  });
});

test('all four align, before the reference server', async () => {
  await grant(gateway, issuer, {
    server: 'main',
    tools: ['echo'],
    'per-call': '0.01 USD',
    expires: '1h',
  });
  const client = await legacyClient(url('main'), { token: token.main });
  try {
    const before = await chain.balance(chain.payer.address);
    const { result } = await callPaid(client, chain.payer.key, {
      name: 'echo',
      arguments: { message: 'yes' },
    });
    assert.equal(textOf(result), 'Echo: yes');
    assert.equal(before - (await chain.balance(chain.payer.address)), CENT);
    assert.ok(receiptOf(result));
  } finally {
    await client.close();
  }
});

test('every refusal that knew whom it was for is in the log, and the log verifies', async () => {
  const xena = await person('xena', null);
  const problem = problemOf(await thing(xena, { note: 'an argument that stays out of the log' }));
  const said = await gateway.cliRaw('audit', 'tail');
  assert.equal(said.code, 0, said.stderr);
  assert.ok(said.stdout.includes(problem.call_id), said.stdout.slice(-2_000));
  assert.ok(!said.stdout.includes('stays out of the log') && !said.stdout.includes('xena'));
  const verified = await gateway.cliRaw('audit', 'verify');
  assert.equal(verified.code, 0, verified.stdout + verified.stderr);
});
