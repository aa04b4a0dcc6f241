// The evidence: what an outsider can check with the public key and the published files alone, every
// way of tampering with them, and that no secret and no argument is in them.

import assert from 'node:assert/strict';
import {
  cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { gatewayBinary } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { freePort, start, until } from './lib/process.mjs';
import {
  MCP_ACCEPT, admin, buy, callTool, calls, l402, published, receiptOf, startBefore, startParts,
  verifyLog, x402Challenge,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';
import { payer } from './lib/x402http.mjs';

const CANARY = 'canary-7f3a9c';
const secrets = {
  argument: `${CANARY}-argument`,
  upstreamKey: `${CANARY}-upstream-key`,
  person: `${CANARY}-person@example.com`,
  purpose: `${CANARY}-purpose`,
};
const KINDS = [
  'quote', 'consent', 'decision', 'invocation.start', 'invocation.result', 'ledger.impact',
];
const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    headers: { 'x-api-key': 'env:UPSTREAM_KEY' },
    tools: {
      get_forecast: { price: 'free', ...anonymous },
      get_report: { price: '3 sat', ...anonymous },
    },
  },
  weather: {
    headers: { authorization: 'Bearer env:UPSTREAM_KEY' },
    tools: {
      get_forecast: { price: ['0.01 USDC', '3 sat'] },
      get_report: { price: '3 sat', consent: 'none', sensitivity: 3 },
      delete_report: { price: 'free', consent: 'none' },
    },
  },
};

let parts;
let issuer;
let gateway;
let home;
/** What happened: {call, result, records} each; and what must not be seen again. */
const ran = [];
const refused = [];
const hidden = new Map(Object.entries(secrets));
const texts = [];

before(async () => {
  parts = await startParts();
  const port = await freePort();
  const weather = `http://127.0.0.1:${port}/weather/mcp`;
  issuer = await startIssuer({ resources: [weather] });
  home = mkdtempSync(path.join(os.tmpdir(), 'countersign-audit-'));
  gateway = await startBefore(parts, { servers, issuers: [issuer.url] }, {
    port, env: { UPSTREAM_KEY: secrets.upstreamKey },
  });
  await happen(weather);
});
after(async () => {
  await gateway?.stop();
  await issuer?.stop();
  await parts?.stop();
  if (home) rmSync(home, { recursive: true, force: true });
});

/** Calls of every kind, each with the canary among its arguments. */
async function happen(weather) {
  const args = (city) => ({ city, note: secrets.argument });
  const call = async (at, tool, city, options) => {
    const answer = await callTool(gateway, at, tool, args(city), options);
    texts.push([`${at}/${tool} ${city}`, answer.text, JSON.stringify([...answer.headers])]);
    if (answer.status === 200 && !answer.code) ran.push({ answer, ...receiptOf(answer.result) });
    else refused.push(answer);
    return answer;
  };
  const pay = async (at, tool, city, options) => {
    const paid = await buy(parts, gateway, at, tool, args(city), options);
    hidden.set(`macaroon ${city}`, paid.token);
    hidden.set(`preimage ${city}`, paid.preimage);
    return paid;
  };

  for (let n = 0; n < 48; n++) await call('open', 'get_forecast', `free ${n}`);
  const anybody = await pay('open', 'get_report', 'anybody');
  await call('open', 'get_report', 'anybody', { headers: l402(anybody) });

  const token = await issuer.userToken(secrets.person, weather);
  const program = await issuer.clientCredentials(weather);
  hidden.set('token', token.split('.')[2]);
  hidden.set('claims', token.split('.')[1]);
  hidden.set('program', program.split('.')[2]);
  const headers = bearer(token);
  await call('weather', 'get_forecast', 'no grant', { headers });
  await gateway.cli(
    'grant', 'create', '--issuer', issuer.url, '--subject', secrets.person, '--agent', 'web-agent',
    '--server', 'weather', '--tool', 'get_forecast', '--intent', 'read', '--per-call', '0.05 USD',
    '--expires', '1h', '--purpose', secrets.purpose,
  );
  await call('weather', 'get_forecast', 'unpaid', { headers });
  const lightning = await pay('weather', 'get_forecast', 'lightning', { headers });
  await call('weather', 'get_forecast', 'lightning', { headers: l402(lightning) });
  const challenge = x402Challenge(await call('weather', 'get_forecast', 'usdc', { headers }));
  const payment = await payer(`0x${'42'.repeat(32)}`).createPaymentPayload(challenge);
  hidden.set('payment signature', payment.payload.signature.slice(2));
  const signature = Buffer.from(JSON.stringify(payment)).toString('base64');
  hidden.set('payment', signature);
  await call('weather', 'get_forecast', 'usdc', {
    headers: { ...headers, 'payment-signature': signature },
  });
  await call('weather', 'get_report', 'policy', { headers: bearer(program) });
  await call('weather', 'delete_report', 'approval', { headers });
  await call('weather', 'get_forecast', 'no token');
  await call('weather', 'get_forecast', 'bad token', { headers: bearer(`${token.slice(0, -9)}AAAAAAAAA`) });
  await call('weather', 'get_forecast', 'a payment that is none', {
    headers: { ...headers, 'payment-signature': Buffer.from(`{"${CANARY}-payment":1}`).toString('base64') },
  });
  hidden.set('malformed payment', `${CANARY}-payment`);
  await call('weather', 'get_forecast', 'other preimage', {
    headers: { authorization: `L402 ${lightning.token}:${anybody.preimage}` },
  });
  await call('open', `${CANARY}-tool`, 'unknown tool', { headers: MCP_ACCEPT });
  await published(gateway);
}

/** A command far from the gateway: no configuration, nothing but its arguments. */
async function offline(...args) {
  const cwd = mkdtempSync(path.join(home, 'elsewhere-'));
  const command = start(gatewayBinary, args, { cwd, env: { HOME: cwd } });
  const { code } = await command.ended;
  const stdout = command.stdout();
  let report;
  try {
    report = JSON.parse(stdout);
  } catch {
    // Some commands fail in words only.
  }
  return { code, stdout, stderr: command.stderr(), report };
}

/** A copy of the published log, taken while nothing is being published; and the public key as text. */
async function copyLog(name) {
  await published(gateway);
  const dir = path.join(home, name);
  cpSync(path.join(gateway.dir, 'data', 'log'), dir, { recursive: true });
  return dir;
}
const publicKey = () => readFileSync(path.join(gateway.dir, 'data/keys/log.pub'), 'utf8').trim();
const verify = (dir, ...args) => offline('audit', 'verify', '--log', dir, '--key', publicKey(), ...args);
const checkpointOf = (dir) => path.join(dir, 'checkpoint');
const sizeOf = (dir) => Number(readFileSync(checkpointOf(dir), 'utf8').split('\n')[1]);

/** The file that holds a record, and where in it: what is published for the tree's size. */
function bundleOf(dir, kind, index) {
  const size = sizeOf(dir);
  const tile = Math.floor(index / 256);
  const width = Math.min(256, size - tile * 256);
  const name = String(tile).padStart(3, '0');
  const base = path.join(dir, 'tile', kind, name);
  return width === 256 ? base : path.join(`${base}.p`, String(width));
}

function entriesOf(file) {
  const bytes = readFileSync(file);
  const entries = [];
  for (let at = 0; at < bytes.length; at += 2 + bytes.readUInt16BE(at)) {
    entries.push(bytes.subarray(at + 2, at + 2 + bytes.readUInt16BE(at)));
  }
  return entries;
}

function writeEntries(file, entries) {
  const parts = entries.flatMap((entry) => {
    const length = Buffer.alloc(2);
    length.writeUInt16BE(entry.length);
    return [length, entry];
  });
  writeFileSync(file, Buffer.concat(parts));
}

async function isFound(dir, what, ...args) {
  const { code, report, stderr } = await verify(dir, ...args);
  assert.equal(code, 1, `${what}: not found; ${stderr}`);
  assert.ok(report.findings.length > 0, `${what}: exit 1 without a finding`);
  return report.findings.map(({ finding }) => finding);
}

describe('the published log', () => {
  test('verifies with its files and its public key alone', async () => {
    const dir = await copyLog('sound');
    const { code, report } = await verify(dir);
    assert.equal(code, 0, JSON.stringify(report?.findings));
    assert.equal(report.attested.size, sizeOf(dir));
    assert.ok(report.attested.size > 256, 'more than one bundle');
    assert.equal(report.calls.executed, ran.length);
    assert.deepEqual(report.open, []);
    const asFile = await offline('audit', 'verify', '--log', dir, '--key',
      path.join(gateway.dir, 'data/keys/log.pub'));
    assert.equal(asFile.code, 0);
  });

  test('does not verify with another key', async () => {
    const dir = await copyLog('other-key');
    const other = publicKey().replace(/.{6}$/, (end) => [...end].reverse().join(''));
    const { code } = await offline('audit', 'verify', '--log', dir, '--key', other);
    assert.notEqual(code, 0);
  });

  test('holds six records for each call that ran, chained and in order', async () => {
    const records = new Map();
    const dir = await copyLog('records');
    for (let index = 0; index < sizeOf(dir); index += 256) {
      for (const entry of entriesOf(bundleOf(dir, 'entries', index))) {
        const record = JSON.parse(entry);
        if (!record.call) continue;
        records.set(record.call, [...(records.get(record.call) ?? []), record]);
      }
    }
    for (const { call, answer } of ran) {
      const own = records.get(call);
      assert.deepEqual(own.map(({ kind }) => kind), KINDS, answer.text);
      assert.equal(own.at(-1).outcome, 'captured');
      assert.equal(own.at(-1).seq, receiptOf(answer.result).log.index);
      const { proofs } = own.find(({ kind }) => kind === 'decision');
      assert.deepEqual(Object.keys(proofs).sort(), ['authorization', 'consent', 'identity', 'payment']);
      for (const [at, record] of own.entries()) assert.equal(Boolean(record.prev), at > 0);
    }
  });

  test('holds a record of each refused call, with its code', async () => {
    const all = await calls(gateway);
    const identified = refused.filter(({ code }) => !/^(IDN|REQ)-/.test(code) && code !== 'PAY-002');
    assert.deepEqual(
      identified.map(({ code }) => code).sort(),
      ['CNS-001', 'CNS-008', 'PAY-001', 'PAY-001', 'PAY-014', 'POL-001'].sort(),
    );
    for (const { code, problem } of identified.filter(({ code }) => code !== 'PAY-014')) {
      const found = all.find(({ call }) => call === problem.call_id);
      assert.deepEqual([found?.state, found?.code], ['refused', code]);
      const { body } = await admin(gateway, `/v1/calls/${problem.call_id}`);
      assert.ok(body.log.length >= 1);
      assert.equal(body.log.at(-1).refusal, code, JSON.stringify(body.log.at(-1)));
    }
  });

  test('is shown by `audit tail`', async () => {
    const { code, stdout } = await gateway.cliRaw('audit', 'tail', '--limit', '7');
    assert.equal(code, 0);
    const shown = stdout.trim().split('\n').map((line) => JSON.parse(line));
    assert.equal(shown.length, 7);
    assert.equal(shown.at(-1).seq, (await published(gateway)).records - 1);
  });
});

describe('tampering', () => {
  test('one bit of a record, wherever, is found', async () => {
    const dir = await copyLog('flipped');
    for (const index of [0, 255, 256, sizeOf(dir) - 1]) {
      const file = bundleOf(dir, 'entries', index);
      const original = readFileSync(file);
      for (const at of [2, 3, Math.floor(original.length / 2), original.length - 2]) {
        const bytes = Buffer.from(original);
        bytes[at] ^= 1 << (at % 8);
        writeFileSync(file, bytes);
        await isFound(dir, `bit of byte ${at} in ${file}`);
      }
      writeFileSync(file, original);
    }
    assert.equal((await verify(dir)).code, 0, 'as before once mended');
  });

  test('one bit of a hash, of the checkpoint or of its signature is found', async () => {
    const dir = await copyLog('hashes');
    for (const file of [
      bundleOf(dir, '0', 0), bundleOf(dir, '0', sizeOf(dir) - 1), checkpointOf(dir),
    ]) {
      const original = readFileSync(file);
      const places = [0, 5, Math.floor(original.length / 2), original.length - 8];
      for (const at of places) {
        const bytes = Buffer.from(original);
        bytes[at] ^= 2;
        writeFileSync(file, bytes);
        await isFound(dir, `byte ${at} of ${file}`);
      }
      writeFileSync(file, original);
    }
  });

  test('a record dropped, doubled, moved or of another call is found', async () => {
    const dir = await copyLog('records-moved');
    const file = bundleOf(dir, 'entries', 0);
    const hashes = bundleOf(dir, '0', 0);
    const [original, originalHashes] = [readFileSync(file), readFileSync(hashes)];
    const entries = entriesOf(file);
    const changes = {
      dropped: entries.filter((_, at) => at !== 9),
      doubled: [...entries.slice(0, 10), ...entries.slice(9, -1)],
      moved: [...entries.slice(0, 4), entries[5], entries[4], ...entries.slice(6)],
      'another in its place': entries.map((entry, at) => (at === 9 ? entries[15] : entry)),
      'none at all': [],
    };
    for (const [what, changed] of Object.entries(changes)) {
      writeEntries(file, changed);
      await isFound(dir, what);
      // Whoever can change the records can change the hashes beside them.
      rmSync(hashes);
      await isFound(dir, `${what}, its hashes gone`);
      writeFileSync(hashes, originalHashes);
    }
    writeFileSync(file, original);
    assert.equal((await verify(dir)).code, 0);
  });

  test('a missing file is found', async () => {
    const dir = await copyLog('missing');
    for (const file of [
      bundleOf(dir, 'entries', 0), bundleOf(dir, 'entries', sizeOf(dir) - 1), bundleOf(dir, '0', 0),
      checkpointOf(dir),
    ]) {
      const original = readFileSync(file);
      rmSync(file);
      await isFound(dir, `${file} is missing`);
      writeFileSync(file, original);
    }
  });

  test('a cut tail and an older copy are found against what was kept', async () => {
    const older = await copyLog('older');
    const last = await callTool(gateway, 'open', 'get_forecast', { city: 'after the copy' });
    ran.push({ answer: last, ...receiptOf(last.result) });
    const newer = await copyLog('newer');
    const kept = checkpointOf(newer);
    const receipt = path.join(home, 'receipt.json');
    writeFileSync(receipt, last.text);

    const alone = await verify(older);
    assert.equal(alone.code, 0, 'by itself an older copy is sound');
    assert.equal(alone.report.attested.size, sizeOf(older), 'and says how far it goes');
    assert.deepEqual(await isFound(older, 'older than the checkpoint', '--checkpoint', kept), ['shorter_than_kept']);
    assert.deepEqual(await isFound(older, 'older than the receipt', '--receipt', receipt), ['receipt_beyond_log']);

    const held = await verify(newer, '--checkpoint', checkpointOf(older), '--receipt', receipt);
    assert.equal(held.code, 0, held.stdout);
    assert.equal(held.report.attested.continues, sizeOf(older));
    assert.equal(held.report.attested.holds_receipt, true);

    // The newest records cut off, the checkpoint left.
    const file = bundleOf(newer, 'entries', sizeOf(newer) - 1);
    writeEntries(file, entriesOf(file).slice(0, -1));
    await isFound(newer, 'the tail cut');
    rmSync(bundleOf(newer, '0', sizeOf(newer) - 1));
    await isFound(newer, 'the tail cut, hashes gone');
  });

  test('what was kept is itself looked at', async () => {
    const dir = await copyLog('kept');
    const checkpoint = readFileSync(checkpointOf(dir), 'utf8');
    const forged = path.join(home, 'forged');
    writeFileSync(forged, checkpoint.replace(/^(\d+)$/m, (size) => String(Number(size) - 6)));
    assert.deepEqual(await isFound(dir, 'forged', '--checkpoint', forged), ['bad_kept_checkpoint']);
    const token = ran[0].answer.result._meta['countersign/receipt'];
    writeFileSync(forged, `${token.slice(0, -6)}AAAAAA`);
    assert.deepEqual(await isFound(dir, 'forged', '--receipt', forged), ['bad_receipt']);
  });
});

describe('another history', () => {
  test('an older database is not started behind its log; two histories do not agree', async () => {
    const dir = path.join(home, 'rolled-back');
    const port = await freePort();
    const open = { servers: { open: { tools: servers.open.tools } } };
    const live = () => startBefore(parts, open, { dir, port });
    const data = path.join(dir, 'data');
    const copy = (from, to) =>
      cpSync(from, to, { recursive: true, filter: (file) => !file.endsWith('.sock') });
    const call = (gate, city) => callTool(gate, 'open', 'get_forecast', { city });
    mkdirSync(dir);
    const first = await live();
    await call(first, 'common');
    await first.stop();
    const common = path.join(home, 'common');
    copy(data, common);

    const second = await live();
    await call(second, 'in one history');
    await published(second);
    const kept = path.join(home, 'kept-checkpoint');
    cpSync(path.join(data, 'log', 'checkpoint'), kept);
    await second.stop();

    // The database of before, the log as it is.
    const log = path.join(home, 'log-as-it-was');
    copy(path.join(data, 'log'), log);
    rmSync(data, { recursive: true });
    copy(common, data);
    rmSync(path.join(data, 'log'), { recursive: true });
    copy(log, path.join(data, 'log'));
    await assert.rejects(live(), /older copy/);

    // All of before: it starts, goes another way, and the kept checkpoint shows it.
    rmSync(data, { recursive: true });
    copy(common, data);
    const third = await live();
    for (const city of ['in another', 'history', 'altogether']) await call(third, city);
    await published(third);
    const alone = await verifyLog(third);
    assert.deepEqual([alone.code, alone.findings], [0, []]);
    const held = await verifyLog(third, '--checkpoint', kept);
    assert.equal(held.code, 1);
    assert.deepEqual(held.findings.map(({ finding }) => finding), ['forked']);
    await third.stop();
  });

  test('a log that has nothing in it yet is sound', async () => {
    const idle = await startBefore(parts, { servers: { open: { tools: servers.open.tools } } });
    try {
      await until('it has published', () => existsSync(path.join(idle.dir, 'data/log/checkpoint')), {
        timeout_ms: 3_000,
      });
      const { code, findings } = await verifyLog(idle);
      assert.deepEqual([code, findings], [0, []]);
    } finally {
      await idle.stop();
    }
  });
});

describe('a proof', () => {
  let proof;
  let call;
  before(async () => {
    ({ call } = ran.at(-3));
    await published(gateway);
    proof = await gateway.cli('audit', 'prove', call);
  });
  const check = async (value, key = publicKey()) => {
    const file = path.join(home, 'proof.json');
    writeFileSync(file, typeof value === 'string' ? value : JSON.stringify(value));
    return offline('audit', 'verify-proof', file, '--key', key);
  };

  test('shows a whole call with the public key alone', async () => {
    const { code, report, stderr } = await check(proof);
    assert.equal(code, 0, stderr);
    assert.deepEqual([report.call, report.outcome, report.records], [call, 'captured', KINDS]);
  });

  test('is made offline too, from the published files', async () => {
    const dir = await copyLog('proven');
    const made = await offline('audit', 'prove', call, '--log', dir, '--key', publicKey());
    assert.equal(made.code, 0, made.stderr);
    assert.equal((await check(made.report)).code, 0);
  });

  test('that was changed anywhere does not hold', async () => {
    const text = JSON.stringify(proof);
    let tried = 0;
    for (let at = 0; at < text.length; at += Math.ceil(text.length / 60)) {
      if (!/[0-9a-zA-Z]/.test(text[at])) continue;
      const other = text[at] === 'a' ? 'b' : text[at] === '1' ? '2' : /\d/.test(text[at]) ? '1' : 'a';
      const changed = `${text.slice(0, at)}${other}${text.slice(at + 1)}`;
      const { code, stderr } = await check(changed);
      assert.notEqual(code, 0, `changed at ${at}: ${text.slice(at - 20, at + 20)}`);
      assert.ok(!stderr.includes('panicked'), stderr);
      tried += 1;
    }
    assert.ok(tried > 30);
  });

  test('of nothing is refused', async () => {
    const none = await gateway.cliRaw('audit', 'prove', call.replace(/.{4}$/, '0000'));
    assert.equal(none.code, 1);
    for (const junk of ['', '{}', '[]', 'null', '{"a":'.repeat(500)]) {
      const { code, stderr } = await check(junk);
      assert.ok(code === 1 || code === 2, `${junk.slice(0, 9)}: ${code}`);
      assert.ok(!stderr.includes('panicked'), stderr);
    }
  });
});

describe('a receipt', () => {
  const check = async (text, key = publicKey()) => {
    const file = path.join(home, 'a-receipt');
    writeFileSync(file, text);
    return offline('receipt', 'verify', file, '--key', key);
  };

  test('travels with each result, and verifies with the public key alone', async () => {
    for (const { answer } of ran.slice(-5)) {
      const { code, report, stderr } = await check(answer.text);
      assert.equal(code, 0, stderr);
      assert.deepEqual(report, receiptOf(answer.result));
      assert.equal(report.state, 'captured');
    }
    const rails = new Set(ran.map(({ answer }) => receiptOf(answer.result).rail));
    assert.deepEqual([...rails].sort(), ['l402', 'none', 'x402']);
  });

  test('says what was paid, and under which grant', () => {
    const paid = ran.map(({ answer }) => receiptOf(answer.result)).filter(({ rail }) => rail !== 'none');
    assert.deepEqual(
      paid.map(({ rail, amount, grant }) => [rail, amount.asset, amount.minor, Boolean(grant)]),
      [['l402', 'BTC', '3000', false], ['l402', 'BTC', '3000', true], ['x402', 'USDC', '10000', true]],
    );
    for (const { payment_ref } of paid) assert.ok(payment_ref);
  });

  test('that was changed, or is of another, does not verify', async () => {
    const token = ran[0].answer.result._meta['countersign/receipt'];
    const [header, payload, signature] = token.split('.');
    const richer = Buffer.from(payload, 'base64url').toString().replace('"minor":"0"', '"minor":"9"');
    const none = Buffer.from('{"alg":"none","typ":"receipt+jwt"}').toString('base64url');
    const other = ran[1].answer.result._meta['countersign/receipt'].split('.');
    for (const [what, changed] of Object.entries({
      'another amount': `${header}.${Buffer.from(richer).toString('base64url')}.${signature}`,
      'no algorithm': `${none}.${payload}.`,
      'the signature of another': `${header}.${payload}.${other[2]}`,
      'no signature': `${header}.${payload}.`,
      'two parts': `${header}.${payload}`,
      'an access token': await issuer.clientCredentials(`${gateway.url}/weather/mcp`),
      'nothing': '',
    })) {
      const { code, stderr } = await check(changed);
      assert.ok(code === 1 || code === 2, `${what}: ${code}`);
      assert.ok(stderr.length > 10 && !stderr.includes('panicked'), stderr);
    }
  });

  test('of a grant is signed too, and none of a call', async () => {
    const { receipt } = await gateway.cli(
      'grant', 'create', '--issuer', issuer.url, '--subject', 'bob', '--agent', 'web-agent',
      '--server', 'weather', '--tool', 'get_forecast', '--intent', 'read',
      '--per-call', '0.01 USD', '--expires', '1h',
    );
    const { code, report } = await check(receipt);
    assert.equal(code, 0);
    assert.equal(report.grant.subject, 'bob');
    writeFileSync(path.join(home, 'grant'), receipt);
    assert.deepEqual(
      await isFound(await copyLog('of-grant'), 'a grant', '--receipt', path.join(home, 'grant')),
      ['bad_receipt'],
    );
  });
});

describe('what must not be seen', () => {
  const files = (dir) => readdirSync(dir, { recursive: true })
    .map((name) => path.join(dir, name))
    .filter((file) => statSync(file).isFile());

  /** Names of the secrets that a text holds. */
  const seenIn = (text, except = []) =>
    [...hidden].filter(([name, value]) => text.includes(value) && !except.includes(name))
      .map(([name]) => name);

  test('is not in the log', async () => {
    await published(gateway);
    for (const file of files(path.join(gateway.dir, 'data', 'log'))) {
      assert.deepEqual(seenIn(readFileSync(file, 'latin1')), [], file);
    }
  });

  test('is not on stderr or stdout', () => {
    assert.deepEqual(seenIn(gateway.stderr() + gateway.stdout()), []);
  });

  test('is not in an answer, but for what it is about', () => {
    for (const [what, body, headers] of texts) {
      // A challenge shows the credential that paying completes; a missing grant, whom it is for.
      const except = [...hidden.keys()].filter((name) => name.startsWith('macaroon'));
      if (what.endsWith('no grant')) except.push('person');
      assert.deepEqual(seenIn(body, except), [], `${what}: ${body}`);
      assert.deepEqual(seenIn(headers, except), [], what);
    }
  });

  test('is not in what operators are shown', async () => {
    for (const path of ['/v1/calls?limit=1000', '/v1/audit?limit=1000', '/v1/status', '/v1/ledger/balances']) {
      const { status, body } = await admin(gateway, path);
      assert.equal(status, 200);
      assert.deepEqual(seenIn(JSON.stringify(body)), [], path);
    }
    for (const { call } of await calls(gateway)) {
      const { body } = await admin(gateway, `/v1/calls/${call}`);
      assert.deepEqual(seenIn(JSON.stringify(body)), [], call);
    }
    for (const command of [['check'], ['doctor'], ['keys', 'show'], ['status']]) {
      const { stdout, stderr } = await gateway.cliRaw(...command);
      assert.deepEqual(seenIn(stdout + stderr), [], command.join(' '));
    }
  });

  test('lies in files that only their owner can read', async () => {
    await published(gateway);
    for (const file of files(path.join(gateway.dir, 'data'))) {
      if (file.endsWith('log.pub')) continue;
      assert.equal(statSync(file).mode & 0o077, 0, file);
    }
  });
});

describe('refusals before identity', () => {
  test('are counted in the log', async () => {
    await gateway.restart();
    await published(gateway);
    const { body } = await admin(gateway, '/v1/audit?limit=1000');
    const counted = body.records.filter((record) => /idn-001/i.test(JSON.stringify(record)));
    assert.ok(counted.length > 0, 'no record counts the calls without a token');
    assert.equal((await verifyLog(gateway)).code, 0);
  });
});

test('nothing panicked', () => assert.ok(!gateway.stderr().includes('panicked'), gateway.stderr()));
