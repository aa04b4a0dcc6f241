// Macaroons between ours and two other implementations, PyPI `pymacaroons` and npm `macaroon`, both
// ways: the vectors that the Rust tests read too, and credentials of a running gateway.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';

import library from 'macaroon';

import { attenuate, caveatsOf, decode, encode, ofJson } from './lib/macaroon.mjs';
import { pythonJson } from './lib/python.mjs';
import {
  accounts, admin, buy, callTool, l402, lightningOffer, published, startBefore, startParts, verifyLog,
} from './lib/rig.mjs';

const vectors = JSON.parse(
  readFileSync(new URL('../crates/core/tests/vectors/macaroons.json', import.meta.url), 'utf8'),
);
const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_forecast: { price: '3 sat', uses: 4, ...anonymous },
      get_report: { price: '3 sat', sensitivity: 2, intent: 'read', ...anonymous },
    },
  },
};

const bytes = (hex) => new Uint8Array(Buffer.from(hex, 'hex'));

// npm `macaroon` doubles its buffer at each write of the binary form, and gives up at four caveats:
// what it makes is taken as JSON.
const js = {
  mint({ root_key, identifier, location, caveats }) {
    const made = library.newMacaroon({
      rootKey: bytes(root_key), identifier: bytes(identifier), location: location ?? undefined, version: 2,
    });
    for (const caveat of caveats) made.addFirstPartyCaveat(caveat);
    return { macaroon: ofJson(made.exportJSON()), signature: Buffer.from(made.signature).toString('hex') };
  },
  attenuate({ macaroon, caveats }) {
    const read = library.importMacaroon(new Uint8Array(Buffer.from(macaroon, 'base64')));
    for (const caveat of caveats) read.addFirstPartyCaveat(caveat);
    return { macaroon: ofJson(read.exportJSON()) };
  },
  verify({ macaroon, root_key, caveats }) {
    const read = library.importMacaroon(new Uint8Array(Buffer.from(macaroon, 'base64')));
    const check = (caveat) => (caveats.includes(caveat) ? null : new Error('unknown'));
    try {
      read.verify(bytes(root_key), check);
      return true;
    } catch {
      return false;
    }
  },
};
const libraries = {
  'npm macaroon': (jobs) => jobs.map((job) => js[job.op](job)),
  'PyPI pymacaroons': (jobs) => pythonJson('macaroons.py', { job: jobs }),
};

describe('the vectors', () => {
  for (const [name, run] of Object.entries(libraries)) {
    test(`${name} mints, narrows and verifies each`, async () => {
      const made = await run(vectors.map((vector) => ({ ...vector, op: 'mint' })));
      made.forEach(({ macaroon, signature }, at) => {
        assert.equal(signature, vectors[at].signature, vectors[at].name);
        const [own, theirs] = [decode(vectors[at].macaroon), decode(macaroon)];
        // pymacaroons writes an empty location where there is none.
        theirs.location = theirs.location?.length ? theirs.location : undefined;
        assert.deepEqual(theirs, own, vectors[at].name);
      });
      const holds = await run(vectors.map((vector) => ({ ...vector, op: 'verify' })));
      assert.deepEqual(holds, vectors.map(() => true));
      const narrowed = await run(vectors.map(({ macaroon }) => ({
        op: 'attenuate', macaroon, caveats: ['n_uses=1'],
      })));
      narrowed.forEach(({ macaroon }, at) => {
        const own = decode(attenuate(vectors[at].macaroon, 'n_uses=1'));
        assert.deepEqual(decode(macaroon).signature, own.signature, vectors[at].name);
      });
      const forged = await run(vectors.map((vector) => ({
        ...vector, op: 'verify', root_key: `${vector.root_key}00aa`,
      })));
      assert.deepEqual(forged, vectors.map(() => false), 'another root key');
    });
  }
});

describe('credentials of a gateway', () => {
  let parts;
  let gateway;
  before(async () => {
    parts = await startParts();
    gateway = await startBefore(parts, { servers });
  });
  after(async () => {
    await gateway?.stop();
    await parts?.stop();
  });

  const show = (paid, macaroon, args, tool = 'get_forecast') =>
    callTool(gateway, 'open', tool, args, { headers: l402({ ...paid, token: macaroon }) });
  const key = (macaroon) => createHash('sha256').update(decode(macaroon).identifier).digest('hex');
  const rootKey = (macaroon) =>
    pythonJson('root_key.py', { job: { db: `${gateway.dir}/data/countersign.db`, key: key(macaroon) } });

  for (const [name, run] of Object.entries(libraries)) {
    test(`ours is verified by ${name}, theirs by ours`, async () => {
      const args = { city: name };
      const paid = await buy(parts, gateway, 'open', 'get_forecast', args);
      const [root_key, caveats] = [await rootKey(paid.token), caveatsOf(paid.token)];
      const verify = { op: 'verify', macaroon: paid.token, root_key, caveats };
      const [holds, without] = await run([verify, { ...verify, caveats: caveats.slice(1) }]);
      assert.deepEqual([holds, without], [true, false]);
      const identifier = decode(paid.token).identifier.toString('hex');
      const [minted, wider, foreign] = await run([
        { op: 'mint', root_key, identifier, caveats },
        { op: 'mint', root_key, identifier, caveats: [...caveats, 'color=red'] },
        { op: 'mint', root_key: '00'.repeat(32), identifier, caveats },
      ]);
      assert.equal((await show(paid, wider.macaroon, args)).code, 'PAY-013');
      assert.equal((await show(paid, foreign.macaroon, args)).code, 'PAY-012');
      const answer = await show(paid, minted.macaroon, args);
      assert.equal(answer.status, 200, answer.text);
    });

    test(`what ${name} narrows is used within that, and no further`, async () => {
      const oslo = { city: `Oslo ${name}` };
      const paid = await buy(parts, gateway, 'open', 'get_forecast', oslo);
      const digest = createHash('sha256').update(JSON.stringify(oslo)).digest('hex');
      const narrow = async (...caveats) =>
        (await run([{ op: 'attenuate', macaroon: paid.token, caveats }]))[0].macaroon;
      const these = await narrow(`arguments=${digest}`);
      assert.equal((await show(paid, these, { city: 'Rome' })).code, 'PAY-017');
      assert.equal((await show(paid, these, oslo)).status, 200);
      // Four calls for 3 sat: 750 msat each.
      assert.equal((await show(paid, await narrow('max_price_msat=749'), oslo)).code, 'PAY-017');
      assert.equal((await show(paid, await narrow('max_price_msat=750'), { n: 1 })).status, 200);
      assert.equal((await show(paid, await narrow(`grant=${'5a'.repeat(32)}`), oslo)).code, 'PAY-017');
      assert.equal((await show(paid, await narrow('n_uses=2'), { n: 2 })).code, 'PAY-017', 'two are used');
      assert.equal((await show(paid, await narrow('n_uses=3'), { n: 3 })).status, 200);
      assert.equal((await show(paid, await narrow('max_sats=1'), { n: 4 })).code, 'PAY-013');
      assert.equal((await show(paid, paid.token, { n: 5 })).status, 200, 'as it was sold');
      assert.equal((await show(paid, paid.token, { n: 6 })).code, 'PAY-017');
    });
  }

  test('the first binary form and JSON are no credentials here', async () => {
    const paid = await buy(parts, gateway, 'open', 'get_forecast', { city: 'forms' });
    const [root_key, caveats] = [await rootKey(paid.token), caveatsOf(paid.token)];
    const identifier = decode(paid.token).identifier.toString('hex');
    const [{ macaroon }] = await pythonJson('macaroons.py', {
      job: [{ op: 'mint', version: 1, root_key, identifier, caveats }],
    });
    const json = Buffer.from(JSON.stringify({ v: 2, i64: 'AA', s64: 'AA' })).toString('base64');
    const third = encode({ ...decode(paid.token), location: undefined });
    for (const text of [macaroon, json, `${third},${third}`]) {
      const answer = await show(paid, text, { city: 'forms' });
      assert.deepEqual([answer.status, answer.code], [400, 'PAY-002'], answer.text);
    }
  });

  test('a sensitive tool sells one call at a time, and says what it costs', async () => {
    const args = { city: 'one' };
    const paid = await buy(parts, gateway, 'open', 'get_report', args);
    const caveats = caveatsOf(paid.token);
    assert.ok(caveats.includes('n_uses=1') && caveats.includes('max_price_msat=3000'), `${caveats}`);
    assert.ok(caveats.some((caveat) => caveat.startsWith('call=')), `${caveats}`);
    assert.equal((await show(paid, paid.token, { city: 'two' }, 'get_report')).code, 'PAY-017');
    assert.equal((await show(paid, paid.token, args, 'get_report')).status, 200);
    assert.equal((await show(paid, paid.token, { city: 'two' }, 'get_report')).code, 'PAY-017');
  });

  test('the command line reads one, narrows it, lists it and ends it', async () => {
    const args = { city: 'by hand' };
    const paid = await buy(parts, gateway, 'open', 'get_forecast', args);
    const file = `${gateway.dir}/credential`;
    writeFileSync(file, `L402 ${paid.token}:${paid.preimage}\n`);
    const seen = await gateway.cli('credential', 'inspect', file);
    assert.equal(seen.id, key(paid.token));
    assert.deepEqual([seen.caveats, seen.unreadable], [caveatsOf(paid.token), []]);
    const { credential } = await gateway.cli('credential', 'attenuate', file, 'n_uses=1', 'valid_until=1700000000');
    const [macaroon, preimage] = credential.split(':');
    assert.equal(preimage, paid.preimage);
    assert.equal((await show(paid, macaroon, args)).code, 'PAY-015');
    const bad = await gateway.cliRaw('credential', 'attenuate', file, 'color=red');
    assert.equal(bad.code, 2, bad.stderr);

    assert.equal((await show(paid, paid.token, args)).status, 200);
    const listed = async () =>
      (await gateway.cli('credential', 'list')).items.find((item) => item.credential === seen.id);
    const { state, used, uses } = await listed();
    assert.deepEqual({ state, used, uses }, { state: 'paid', used: 1, uses: 4 });
    const owed = async () => (await accounts(gateway))
      .filter(({ account, asset }) => account === 'refunds_due' && asset === 'sat')
      .reduce((sum, { posted }) => sum + posted, 0n);
    const before = await owed();
    await gateway.cli('credential', 'revoke', seen.id);
    assert.equal((await listed()).state, 'revoked');
    const left = (await owed()) - before;
    assert.ok(left > 0n, 'what is unused is owed back at once');
    const refused = await show(paid, paid.token, args);
    assert.deepEqual([refused.status, refused.code], [401, 'PAY-012'], refused.text);
    assert.equal(refused.problem.facts.cause, 'revoked');
    assert.match(refused.problem.next.action, /discard it and request a new challenge/);
    // No node and no treasury can pay its holder here: a person may, and books it once.
    const unclaimed = async () => (await gateway.cli('ledger', 'unclaimed')).items
      .filter(({ credential }) => credential === seen.id);
    const [{ refund, offered_by: offeredBy, ...due }] = await unclaimed();
    assert.deepEqual([due.tenant, offeredBy], ['anonymous', undefined]);
    const book = () => gateway.cliRaw('ledger', 'claimed', refund, '--reference', 'by hand');
    assert.equal((await book()).code, 0);
    assert.deepEqual([await unclaimed(), await owed()], [[], before]);
    const again = await book();
    assert.deepEqual([again.code, JSON.parse(again.stderr).error.code], [2, 'ADM-002'], again.stderr);
    // Who does as told is asked for a fresh payment, and is served.
    assert.ok(lightningOffer(await callTool(gateway, 'open', 'get_forecast', { city: 'again' })));
    // A stranger is not told that there ever was such a credential.
    const forged = await show(paid, attenuate(paid.token, 'n_uses=1').replace(/.{8}$/, 'AAAAAAA='), args);
    assert.deepEqual([forged.code, forged.problem.facts], ['PAY-012', undefined]);
    assert.equal((await admin(gateway, `/v1/credentials/${'0'.repeat(64)}/revoke`, { method: 'POST', body: {} })).status, 404);
  });

  test('the log holds after all that', async () => {
    await published(gateway);
    assert.equal((await verifyLog(gateway)).code, 0);
  });
});
