// The life of a policy bundle through the real binary: made, signed, activated while calls run,
// refused when anything is wrong with it, taken back, and still there after a crash.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Parts, problemOf } from './lib/gate.mjs';
import { gatewayBinary, startGateway } from './lib/gateway.mjs';
import { legacyClient } from './lib/mcpclients.mjs';
import { until } from './lib/process.mjs';
import { startOwnServer } from './lib/tap.mjs';

const builtin = fileURLToPath(new URL('../crates/gateway/policy/', import.meta.url));
const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-policies-'));
const secret = path.join(dir, 'signer.key');
const parts = new Parts();
let gateway, own, key;

const STOPPED = `
@id("test.stopped") @reason("STOPPED_HERE")
forbid (principal, action, resource) when { context.proofs.consent == Proof::"not_required" };
`;

const TESTS = {
  version: 1,
  tests: [
    {
      name: 'a call without consent is refused',
      question: { consent: 'missing' },
      expect: { answer: 'deny', reasons: ['CONSENT_MISSING'] },
    },
  ],
};

/** A bundle as its author has it: the built-in one, with more policies and a test. */
function author(name, { policies = '', tests = TESTS } = {}) {
  const at = path.join(dir, name);
  cpSync(builtin, at, { recursive: true });
  appendFileSync(path.join(at, 'policies.cedar'), policies);
  // Its tests are of the policies as they were.
  rmSync(path.join(at, 'tests'), { recursive: true, force: true });
  mkdirSync(path.join(at, 'tests'), { recursive: true });
  writeFileSync(path.join(at, 'tests', 'own.json'), JSON.stringify(tests));
  return at;
}

async function sealed(name, revision, made = {}) {
  const at = author(name, made);
  await gateway.cli('policy', 'bundle', at, '--revision', String(revision));
  await gateway.cli('policy', 'sign', at, '--key', made.key ?? secret);
  return at;
}

const activate = (at) => gateway.cli('policy', 'activate', at);

/** What an activation that must fail says. */
async function refused(at, command = ['policy', 'activate', at]) {
  const { code, stderr } = await gateway.cliRaw(...command);
  assert.notEqual(code, 0, 'it was accepted');
  return stderr;
}

const configuration = (port, policy = {}) => ({
  listen: `127.0.0.1:${port}`,
  sandbox: true,
  policy: { key, ...policy },
  servers: {
    own: {
      upstream: own.url,
      relay: { anonymous: true },
      tools: {
        get_thing: { price: 'free', identity: 'anonymous', consent: 'none', intent: 'read' },
      },
    },
  },
});

/** Records of the log from an index on. */
async function records(from = 0) {
  const { stdout } = await gateway.cliRaw(
    ...['audit', 'tail', '--limit', '1000', '--from', String(from)],
  );
  const lines = stdout.split('\n').filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line));
}

const connect = () => legacyClient(`${gateway.url}/own/mcp`);
const thing = (client) => client.callTool({ name: 'get_thing', arguments: {} });
const reasonsOf = (answer) => JSON.stringify(problemOf(answer)?.facts ?? {});

before(() =>
  parts.starting(async () => {
    own = await parts.keep(
      'own',
      startOwnServer({
        tools: [{ name: 'get_thing', inputSchema: { type: 'object' } }],
        answer: () => JSON.stringify({ content: [{ type: 'text', text: 'ran' }] }),
      }),
    );
    const config = ({ port }) => {
      const { policy: _none, ...rest } = configuration(port);
      return rest;
    };
    gateway = await parts.keep('gateway', startGateway({ config }));
    ({ key } = await gateway.cli('policy', 'key', '--name', 'acme.example/policy', '-o', secret));
    gateway.configure(configuration(gateway.port));
    await gateway.restart();
  }),
);

after(async () => {
  await parts.stop();
  rmSync(dir, { recursive: true, force: true });
});

test('the built-in bundle decides until another one is activated', async () => {
  const shown = await gateway.cli('policy', 'show');
  assert.equal(shown.revision, undefined);
  assert.equal(shown.key, key);
  assert.deepEqual(shown.kept, []);
  const client = await connect();
  assert.equal((await thing(client)).content[0].text, 'ran');
  await client.close();
});

test('a signed bundle is checked offline, activated, recorded, and decides', async () => {
  const at = await sealed('stop', 2, { policies: STOPPED });
  const checked = await gateway.cli('policy', 'check', at, '--key', key);
  assert.equal(checked.revision, 2);
  const tried = await gateway.cli('policy', 'test', at);
  assert.equal(tried.failure, undefined);
  assert.deepEqual(tried.decided_by, ['consent.missing']);

  const client = await connect();
  const shown = await activate(at);
  assert.equal(shown.revision, 2);
  assert.equal(shown.digest, checked.digest);
  const answer = await thing(client);
  assert.equal(answer.isError, true);
  assert.equal(problemOf(answer).code, 'POL-001');
  assert.match(reasonsOf(answer), /STOPPED_HERE/);
  await client.close();

  const record = (await records()).find((found) => found.detail?.action === 'policy.activate');
  assert.equal(record.detail.revision, '2');
  assert.equal(record.policy, checked.digest);
  assert.match(record.detail.operator, /^[0-9a-f]{64}$/);
});

test('what is wrong with a bundle is said, and what was in force stays', async () => {
  const { digest } = await gateway.cli('policy', 'show');
  const stays = async () => assert.equal((await gateway.cli('policy', 'show')).digest, digest);

  const unsigned = author('unsigned');
  await gateway.cli('policy', 'bundle', unsigned, '--revision', '3');
  assert.match(await refused(unsigned), /ADM-009.*not signed/s);
  await stays();

  const other = path.join(dir, 'other.key');
  await gateway.cli('policy', 'key', '--name', 'acme.example/policy', '-o', other);
  assert.match(await refused(await sealed('other', 3, { key: other })), /not signed by the expected key/);

  const tampered = await sealed('tampered', 3, { policies: STOPPED });
  const file = path.join(tampered, 'policies.cedar');
  writeFileSync(file, readFileSync(file, 'utf8').replace('STOPPED_HERE', 'STOPPED_NOT'));
  assert.match(await refused(tampered), /not as the manifest lists them.*policies\.cedar/s);

  const swapped = await sealed('swapped', 4);
  cpSync(path.join(tampered, 'manifest.sig'), path.join(swapped, 'manifest.sig'));
  assert.match(await refused(swapped), /manifest\.json/);

  const added = await sealed('added', 3);
  writeFileSync(path.join(added, 'tests', 'more.json'), JSON.stringify(TESTS));
  assert.match(await refused(added), /tests\/more\.json/);

  assert.match(await refused(await sealed('older', 2)), /revision 2 is not above 2/);
  assert.match(await refused(await sealed('oldest', 1)), /revision 1 is not above 2/);

  const over = author('over');
  await gateway.cli('policy', 'bundle', over, '--revision', '3', '--not-after-ms', '1000');
  await gateway.cli('policy', 'sign', over, '--key', secret);
  assert.match(await refused(over), /was valid until 1970/);

  const broken = await sealed('broken', 3, { policies: 'forbid (principal, action, resource);' });
  assert.match(await refused(broken), /has no `@id/);

  const failing = await sealed('failing', 3, {
    tests: {
      version: 1,
      tests: [{ name: 'all is denied', question: {}, expect: { answer: 'deny' } }],
    },
  });
  assert.match(await refused(failing), /`all is denied`: expected Deny, got Allow/);
  const offline = await refused(failing, ['policy', 'test', failing]);
  assert.equal(offline, '');

  const misspelt = author('misspelt');
  writeFileSync(path.join(misspelt, 'teirs.json'), '{}');
  assert.match(await refused(misspelt), /no bundle has a file `teirs\.json`/);
  await stays();
});

test('a bundle explains itself and what changed', async () => {
  const [plain, stop] = [author('plain'), author('stopping', { policies: STOPPED })];
  const explain = (question) => gateway.cli('policy', 'explain', stop, JSON.stringify(question));
  const stopped = await explain({ consent: 'not_required' });
  assert.equal(stopped.answer, 'deny');
  assert.deepEqual(stopped.reasons, [{ code: 'STOPPED_HERE', policy: 'test.stopped' }]);
  const [clause] = stopped.decided[0].clauses;
  assert.match(clause.values['context.proofs.consent'], /not_required/);
  const bare = await explain({ consent: 'missing', remaining: 5, price: 6 });
  assert.equal(bare.nearest.policy, 'call.within-limits');
  assert.equal((await explain({ price: 2_000_000 })).answer, 'challenge for human_confirm');
  assert.match(await refused('', ['policy', 'explain', stop, '{"pryce": 1}']), /unknown field/);
  assert.match(await refused('', ['policy', 'explain', stop, '{"price": "1", "price": "2"}']), /same key twice/);
  const covered = await gateway.cliRaw('policy', 'test', stop, '--cov');
  assert.equal(covered.code, 1);
  const { decided_no_test } = JSON.parse(covered.stdout.trim().split('\n').at(-1));
  assert.ok(decided_no_test.includes('test.stopped'));
  assert.ok(!decided_no_test.includes('consent.missing'));
  const found = await gateway.cli('policy', 'diff', plain, stop);
  assert.deepEqual(found, { added: ['policy test.stopped'], removed: [], changed: [] });
});

test('policies are put in one form, and what is signed is signed anew', async () => {
  const at = author('form', { policies: STOPPED });
  const file = path.join(at, 'policies.cedar');
  const { code, stdout } = await gateway.cliRaw('policy', 'fmt', at, '--check');
  assert.equal(code, 1);
  const { differs, line } = JSON.parse(stdout);
  assert.equal(differs, true);
  assert.match(readFileSync(file, 'utf8').split('\n')[line - 1] ?? '', /test\.stopped|^$/);
  await gateway.cli('policy', 'fmt', at);
  assert.match(readFileSync(file, 'utf8'), /@id\("test\.stopped"\)\n@reason\("STOPPED_HERE"\)\nforbid/);
  assert.match(readFileSync(file, 'utf8'), /^\/\/ Above \$1, a person confirms the call\.$/m);
  assert.equal((await gateway.cli('policy', 'fmt', at, '--check')).differs, false);
  assert.deepEqual(await gateway.cli('policy', 'diff', at, author('unformed', { policies: STOPPED })), {
    added: [], removed: [], changed: [],
  });
  writeFileSync(file, 'permit (principal, action resource);');
  assert.match(await refused(at, ['policy', 'fmt', at]), /unexpected token `resource`/);
});

/** The part of cvc5's command line that is needed, over the library that PyPI has. */
function solver() {
  const file = path.join(dir, 'cvc5');
  const at = (name) => fileURLToPath(new URL(name, import.meta.url));
  writeFileSync(file, `#!/bin/sh\nexec ${at('.venv/bin/python')} -B ${at('py/smt.py')} "$@"\n`, { mode: 0o755 });
  return file;
}

function prove(at, cvc5, ...more) {
  const env = { ...process.env, CVC5: cvc5 };
  const ran = spawnSync(gatewayBinary, ['policy', 'prove', at, '--json', ...more], { env, encoding: 'utf8' });
  const lines = ran.stdout.split('\n').filter((line) => line !== '');
  // As text: its integers are larger than a double holds.
  const asked = lines.flatMap((line) => /"question":(\{.*\}),"confirmed"/.exec(line)?.[1] ?? []);
  const proofs = lines.map((line) => JSON.parse(line));
  return { code: ran.status, stderr: ran.stderr, proofs, asked };
}

test('invariants are proved, or refuted by a request that explain takes', async () => {
  const cvc5 = solver();
  const plain = prove(author('proved'), cvc5);
  assert.equal(plain.code, 0, plain.stderr);
  assert.deepEqual(
    plain.proofs.map(({ invariant, holds }) => [invariant, holds]),
    [
      ['gateway.no-errors', true],
      ['within-budget', true],
      ['with-consent', true],
      ['tier-1-does-not-write', true],
    ],
  );

  const open = author('refuted');
  const policies = path.join(open, 'policies.cedar');
  writeFileSync(policies, '@id("all") @reason("ALL") permit (principal, action, resource);\n');
  const refuted = prove(open, cvc5);
  assert.equal(refuted.code, 1);
  const broken = refuted.proofs.filter(({ holds }) => !holds);
  assert.deepEqual(broken.map(({ invariant }) => invariant), [
    'within-budget', 'with-consent', 'tier-1-does-not-write',
  ]);
  assert.ok(broken.every(({ counterexample }) => counterexample.confirmed), JSON.stringify(broken));
  assert.equal(refuted.asked.length, 3);
  for (const question of refuted.asked) {
    assert.equal((await gateway.cli('policy', 'explain', open, question)).answer, 'allow');
  }

  const own = path.join(dir, 'own.cedar');
  writeFileSync(own, `
@id("secrets-are-for-people")
forbid (principal, action, resource) when { resource.sensitivity >= 3 && !principal.human };
@id("bot-does-not-write")
forbid (principal == Agent::"acme/bot", action == Action::"write", resource);
@id("above-a-dollar-somebody-agreed")
permit (principal, action, resource)
when { context.price.micros <= 1000000 || context.fulfilled.contains("human_confirm") };`);
  const { proofs } = prove(author('asked'), cvc5, '--invariants', own);
  assert.deepEqual(proofs.map(({ holds }) => holds), [true, true, false, true]);
  const { question, confirmed } = proofs[2].counterexample;
  assert.deepEqual([question.tenant, question.agent, question.intent], ['acme', 'bot', 'write']);
  assert.equal(confirmed, true);
});

test('without a solver, or with none that is one, it is said how to get it', async () => {
  const coded = ({ stderr }) => JSON.parse(stderr).error.code;
  const missing = prove(author('unproved'), path.join(dir, 'no-such-cvc5'));
  assert.equal(coded(missing), 'SOLVER-MISSING');
  assert.match(missing.stderr, /install cvc5 1\.3 or later/);
  assert.equal(coded(prove(author('unproved'), '/bin/true')), 'SOLVER-FAILED');
  const wrong = path.join(dir, 'wrong.cedar');
  writeFileSync(wrong, '@id("x") permit (principal, action, resource) when { context.nothing };');
  assert.equal(coded(prove(author('unproved'), solver(), '--invariants', wrong)), 'INVARIANTS-UNUSABLE');
});

test('a bundle is kept over a crash, and taken back only on purpose', async () => {
  await activate(await sealed('open', 5));
  await gateway.kill9();
  await gateway.restart();
  assert.equal((await gateway.cli('policy', 'show')).revision, 5);

  const back = await gateway.cli('policy', 'rollback', '2', '--reason', 'five is too open');
  assert.equal(back.revision, 2);
  const client = await connect();
  assert.match(reasonsOf(await thing(client)), /STOPPED_HERE/);
  await client.close();

  assert.match(await refused(await sealed('again', 5)), /revision 5 is not above 5/);
  assert.match(
    await refused('', ['policy', 'rollback', '4', '--reason', 'never was']),
    /no such bundle is kept/,
  );
  assert.match(await refused('', ['policy', 'rollback', '5', '--reason', ' ']), /say why/);
  const record = (await records()).find((found) => found.detail?.action === 'policy.rollback');
  assert.equal(record.detail.reason, 'five is too open');
  assert.equal(record.detail.revision, '2');
});

test('a shadow bundle answers beside and changes nothing, over a restart too', async () => {
  const client = await connect();
  await activate(await sealed('plain-again', 6));
  const show = async () => (await gateway.cli('policy', 'shadow', 'show')).shadow;
  const set = (at) => ['policy', 'shadow', 'set', at];
  assert.equal(await show(), null);
  assert.match(await refused('', ['policy', 'shadow', 'stop']), /ADM-002.*shadow bundle/s);
  assert.match(await refused('', set(author('bare', { policies: STOPPED }))), /ADM-009.*manifest/s);

  const at = await sealed('shadow', 7, { policies: STOPPED });
  const { shadow } = await gateway.cli(...set(at));
  assert.equal(shadow.revision, 7);
  assert.equal((await gateway.cli('policy', 'show')).revision, 6, 'it decides nothing');
  for (let nth = 0; nth < 5; nth += 1) assert.equal((await thing(client)).content[0].text, 'ran');
  const seen = await until('all are compared', async () => {
    const found = await show();
    return found.compared === 5 ? found : undefined;
  });
  const [row, ...others] = seen.rows;
  assert.deepEqual(others, []);
  assert.deepEqual(
    [row.from, row.to, row.policies, row.tool, row.count],
    ['allow', 'deny', ['test.stopped'], 'own/get_thing', 5],
  );
  assert.match(JSON.stringify(await gateway.cli('calls', 'show', row.calls.at(-1))), /get_thing/);
  await client.close();

  await gateway.restart();
  const kept = await show();
  assert.deepEqual([kept.digest, kept.rows, kept.compared], [seen.digest, seen.rows, 5]);
  const again = await connect();
  assert.equal((await thing(again)).content[0].text, 'ran');
  await until('it is compared', async () => (await show()).compared === 6);
  await again.close();
  await gateway.kill9();
  await gateway.restart();
  assert.equal((await show()).digest, seen.digest, 'after a crash it still answers');

  await activate(await sealed('plain-later', 8));
  assert.equal((await show()).compared, 0, 'beside another bundle it counts anew');
  assert.equal((await gateway.cli('policy', 'shadow', 'stop')).shadow, null);
  const actions = (await records()).map((record) => record.detail?.action);
  assert.ok(actions.includes('policy.shadow.set') && actions.includes('policy.shadow.stop'));
});

test('under load each call is decided by one bundle, whole', async () => {
  const from = (await gateway.cli('status')).records;
  const digests = { open: new Set(), shut: new Set() };
  const clients = await Promise.all(Array.from({ length: 4 }, connect));
  let isOver = false;
  const outcomes = { ran: 0, stopped: 0 };
  const calling = clients.map(async (client) => {
    while (!isOver) {
      const answer = await thing(client);
      if (!answer.isError) outcomes.ran += 1;
      else {
        assert.match(reasonsOf(answer), /STOPPED_HERE/);
        outcomes.stopped += 1;
      }
    }
  });
  await gateway.cli('policy', 'shadow', 'set', await sealed('beside', 9, { policies: STOPPED }));
  for (let revision = 10; revision < 18; revision += 1) {
    const isOpen = revision % 2 === 0;
    const made = isOpen ? {} : { policies: STOPPED };
    const { digest } = await activate(await sealed(`load-${revision}`, revision, made));
    digests[isOpen ? 'open' : 'shut'].add(digest);
  }
  isOver = true;
  await Promise.all(calling);
  await Promise.all(clients.map((client) => client.close()));
  assert.ok(outcomes.ran > 0 && outcomes.stopped > 0, JSON.stringify(outcomes));

  const decisions = [];
  for (let next = from; ; ) {
    const page = await records(next);
    if (page.length === 0) break;
    decisions.push(...page.filter(({ kind }) => kind === 'decision' || kind === 'refusal'));
    next = page.at(-1).seq + 1;
  }
  // What was stopped is only counted, nobody in particular having called; its reason was looked at.
  let recorded = 0;
  for (const { kind, policy, outcome, detail } of decisions.filter(({ policy }) => policy)) {
    if (kind !== 'decision') continue;
    assert.deepEqual([outcome, detail.answer], ['allowed', 'allow']);
    if (digests.shut.has(policy)) assert.fail('a shut bundle let it run');
    recorded += 1;
  }
  assert.ok(recorded > 0, JSON.stringify(decisions.length));
});

test('a directory with a higher revision is activated at start, a wrong one stops it', async () => {
  const at = await sealed('configured', 30, { policies: STOPPED });
  gateway.configure(configuration(gateway.port, { dir: at }));
  await gateway.restart();
  const shown = await gateway.cli('policy', 'show');
  assert.equal(shown.revision, 30);
  assert.equal(shown.kept[0].activated_by, 'configuration');

  appendFileSync(path.join(at, 'policies.cedar'), '// a remark');
  await gateway.cli('policy', 'bundle', at, '--revision', '31');
  await gateway.kill9();
  const { code, stderr } = await gateway.cliRaw('serve');
  assert.equal(code, 2);
  assert.match(stderr, /policy bundle is not accepted.*not signed/s);
});

/** A policy service that says yes when it is told to. */
async function startHeld() {
  const waiting = [];
  const listener = http.createServer((request, response) => {
    request.resume().on('end', () => {
      waiting.push(() => {
        response.setHeader('content-type', 'application/json');
        response.end('{"decision":true}');
      });
    });
  });
  await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${listener.address().port}/access/v1/evaluation`,
    waiting,
    release: () => waiting.splice(0).forEach((answer) => answer()),
    async stop() {
      listener.closeAllConnections();
      await new Promise((resolve) => listener.close(resolve));
    },
  };
}

test('an attempt that is held while another bundle comes is decided by the one it began with', async () => {
  const held = await parts.keep('held', startHeld());
  const pdp = { url: held.url, timeout: '5s', allow_private_network: true };
  const config = ({ port }) => configuration(port, { pdp });
  const slow = await parts.keep('slow', startGateway({ config }));
  const was = (await slow.cli('policy', 'show')).digest;
  const client = await legacyClient(`${slow.url}/own/mcp`);
  const call = thing(client);
  await until('the service is asked', async () => held.waiting.length === 1);
  const at = await sealed('while-held', 40, { policies: STOPPED });
  const shown = await slow.cli('policy', 'activate', at);
  assert.equal(shown.revision, 40);
  assert.equal((await slow.cli('policy', 'show')).digest, shown.digest, 'it is in force');
  held.release();
  assert.equal((await call).content[0].text, 'ran', 'by the bundle that it began with');
  assert.match(reasonsOf(await thing(client)), /STOPPED_HERE/, 'the next one by the new bundle');
  assert.equal(held.waiting.length, 0, 'what is denied is not asked about');
  const { stdout } = await slow.cliRaw('audit', 'tail', '--limit', '100', '--from', '0');
  const lines = stdout.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line));
  const decided = lines.filter(({ kind }) => kind === 'decision');
  // What nobody in particular is refused is counted, not recorded.
  assert.deepEqual(
    decided.map(({ policy, detail }) => [policy, detail.answer]), [[was, 'allow']],
  );
  await client.close();
});
