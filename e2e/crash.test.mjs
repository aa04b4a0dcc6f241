// The gateway dies at every named point between two states of a call, and at random moments under
// load. Started again, its books balance, its log verifies, no tool ran twice and no money moved
// twice; whoever was answered keeps the answer, and whoever was not is told where the call stands.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { startChain } from './lib/chain.mjs';
import {
  BESIDE, OUTWARD, RECOVERED, allFailpoints, clearUp, config, die, failpoints, flows, invariants, onChain,
  payFor, recovered,
} from './lib/deaths.mjs';
import { builtinFacilitator, facilitatorEnv } from './lib/gate.mjs';
import { withLives } from './lib/gateway.mjs';
import { until } from './lib/process.mjs';
import { admin, callTool, calls, receiptOf, startBefore, startParts } from './lib/rig.mjs';

/** Lives of one gateway on one directory. */
const withDirectory = (act) => withLives(
  (at, parts, env = {}, limits = config.limits) => startBefore(parts, { ...config, limits }, { ...at, env }),
  act,
);

describe('the points', () => {
  test('are those that the flows know', () => {
    const known = new Set(Object.values(flows).flatMap(({ leaves }) => Object.keys(leaves)));
    assert.deepEqual(allFailpoints(), [...known, ...OUTWARD, RECOVERED, ...BESIDE].sort());
  });
});

describe('a death at each point', { concurrency: 2 }, () => {
  for (const flow of Object.keys(flows)) {
    describe(flow, { concurrency: 1 }, () => {
      let parts;
      before(async () => (parts = await startParts()));
      after(() => parts?.stop());
      for (const name of failpoints().filter((name) => ![RECOVERED, ...OUTWARD].includes(name))) {
        test(`${flow} at ${name}`, () => withDirectory((live) => die(parts, flow, name, live)));
      }
    });
  }
});

describe('a death while the gateway itself settles on a chain', { concurrency: 1 }, () => {
  let chain, sandbox, parts;
  before(async () => {
    [chain, sandbox] = await Promise.all([startChain(), startParts()]);
    parts = await onChain(sandbox, chain);
  });
  after(() => Promise.all([chain?.stop(), sandbox?.stop()]));

  const withChain = (act) => withLives((at, parts, env = {}) => {
    const rails = {
      x402: { pay_to: chain.merchant.address, facilitator: builtinFacilitator(chain), max_timeout: '20s' },
      l402: { source: { sandbox: parts.lightning }, hold: false },
    };
    const environment = { ...facilitatorEnv(chain), ...env };
    return startBefore(parts, { ...config, rails }, { ...at, env: environment });
  }, act);

  for (const flow of ['upfront', 'authorization']) {
    for (const name of Object.keys(flows[flow].leaves).filter((name) => name !== 'settling')) {
      test(`${flow} at ${name}`, () => withChain((live) => die(parts, flow, name, live)));
    }
  }

  test('nothing was sent yet: nothing is taken, and the call ends with its authorization', () =>
    withChain(async (live) => {
      const args = { ms: 1, of: 'unsent' };
      const first = await live(parts, { COUNTERSIGN_FAILPOINT: 'settling' });
      const [settled, ran] = [await parts.settled(), await parts.ran('get_slow')];
      const paid = await payFor(parts, first, 'upfront', 'get_slow', args);
      await assert.rejects(callTool(first, 'upfront', 'get_slow', args, paid));
      const gateway = await live(parts);
      // The chain's time is that of its blocks.
      const blocks = setInterval(() => chain.mine().catch(() => {}), 500);
      const [left] = await recovered(gateway).finally(() => clearInterval(blocks));
      assert.equal(left.state, 'released');
      assert.deepEqual([await parts.settled() - settled, await parts.ran('get_slow') - ran], [0, 0]);
      await invariants(parts, gateway);
      await clearUp(gateway);
    }));

  test('its transaction was sent, and is not mined: settled once, and owed back', () =>
    withChain(async (live) => {
      const args = { ms: 1, of: 'unmined' };
      const first = await live(parts);
      const [settled, ran] = [await parts.settled(), await parts.ran('get_slow')];
      const paid = await payFor(parts, first, 'upfront', 'get_slow', args);
      await chain.automine(false);
      try {
        const lost = assert.rejects(callTool(first, 'upfront', 'get_slow', args, paid));
        await until('the transaction waits', async () =>
          (await chain.read.getBlock({ blockTag: 'pending' })).transactions.length > 0);
        await first.kill9();
        await lost;
      } finally {
        await chain.automine(true);
        await chain.mine();
      }
      const gateway = await live(parts);
      const [left] = await recovered(gateway);
      assert.equal(left.state, 'refund_due');
      assert.deepEqual([await parts.settled() - settled, await parts.ran('get_slow') - ran], [1, 0]);
      const again = await callTool(gateway, 'upfront', 'get_slow', args, paid);
      assert.deepEqual([again.code, again.problem.charged], ['PAY-008', 'yes'], again.text);
      await invariants(parts, gateway);
      await clearUp(gateway);
    }));
});

describe('other deaths', { concurrency: 2 }, () => {
  let parts;
  before(async () => (parts = await startParts()));
  after(() => parts?.stop());

  for (const [rail, tool] of [['l402', 'get_report'], ['x402', 'get_slow']]) {
    for (const name of ['started', 'ran']) {
      test(`${rail}, ${name}: an idempotent tool is carried on by its caller, and paid for once`, () =>
        withDirectory(async (live) => {
          const args = { ms: 3, of: `${rail} ${name}` };
          const first = await live(parts, { COUNTERSIGN_FAILPOINT: name });
          const paid = await payFor(parts, first, 'idempotent', tool, args);
          const show = (gateway) => callTool(gateway, 'idempotent', tool, args, paid);
          await assert.rejects(show(first));
          const gateway = await live(parts);
          const [left] = await recovered(gateway, ['starting']);
          assert.equal(left.state, 'starting', 'it waits for its caller');
          const again = await show(gateway);
          assert.equal(again.status, 200, again.text);
          assert.equal(receiptOf(again.result).call, left.call, 'the same call, carried on');
          const third = await show(gateway);
          assert.equal(third.result?._meta['countersign/replay-of'], left.call, third.text);
          await invariants(parts, gateway);
          await clearUp(gateway);
        }));
    }
  }

  test('while the tool runs: in doubt, listed, and never run again', () =>
    withDirectory(async (live) => {
      const args = { ms: 20_000, of: 'killed' };
      const first = await live(parts);
      const paid = await payFor(parts, first, 'upfront', 'get_slow', args);
      const lost = assert.rejects(callTool(first, 'upfront', 'get_slow', args, paid));
      await until('the tool runs', async () =>
        (await calls(first)).some(({ state }) => state === 'starting'));
      await first.kill9();
      await lost;
      const gateway = await live(parts);
      const [left] = await recovered(gateway);
      assert.equal(left.state, 'in_doubt');
      const again = await callTool(gateway, 'upfront', 'get_slow', args, paid);
      assert.deepEqual([again.code, again.problem.charged], ['UPS-002', 'yes'], again.text);
      await invariants(parts, gateway);
      await clearUp(gateway);
    }));
});

describe('a death while money is on its way', () => {
  for (const fault of ['settle_times_out_paid', 'settle_times_out_unpaid']) {
    test(`${fault}: settled once with the same authorization, and owed back`, async () => {
      const parts = await startParts();
      try {
        await withDirectory(async (live) => {
          const args = { ms: 1, of: fault };
          const first = await live(parts);
          const paid = await payFor(parts, first, 'upfront', 'get_slow', args);
          await parts.fail(fault);
          const lost = assert.rejects(callTool(first, 'upfront', 'get_slow', args, paid));
          await until('the payment is on its way', async () =>
            (await calls(first)).some(({ state }) => state === 'settling'));
          await sleep(300);
          assert.equal(await parts.settled(), fault.endsWith('unpaid') ? 0 : 1);
          await first.kill9();
          await lost;
          const gateway = await live(parts);
          const [left] = await recovered(gateway);
          assert.equal(left.state, 'refund_due');
          assert.deepEqual([await parts.settled(), await parts.ran('get_slow')], [1, 0]);
          const again = await callTool(gateway, 'upfront', 'get_slow', args, paid);
          assert.deepEqual([again.code, again.problem.charged], ['PAY-008', 'yes'], again.text);
          assert.deepEqual([await parts.settled(), await parts.ran('get_slow')], [1, 0]);
          await invariants(parts, gateway);
          await clearUp(gateway);
        });
      } finally {
        await parts.stop();
      }
    });
  }
});

describe('no death, but nobody knows whether the money moved', { concurrency: 4 }, () => {
  const faults = [
    'settle_pending', 'server_error', 'answers_twice', 'other_payer', 'lies_unpaid', 'lies_reverted',
  ];
  for (const fault of faults) {
    test(`${fault}: the repeated request settles the same payment, and runs once`, async () => {
      const parts = await startParts();
      try {
        await withDirectory(async (live) => {
          const args = { ms: 1, of: fault };
          const gateway = await live(parts);
          const paid = await payFor(parts, gateway, 'upfront', 'get_slow', args);
          const show = () => callTool(gateway, 'upfront', 'get_slow', args, paid);
          await parts.fail(fault);
          const first = await show();
          assert.deepEqual([first.code, first.problem?.charged], ['PAY-010', 'unknown'], first.text);
          assert.equal(first.headers.get('payment-required'), null, 'it asks for money again');
          // It is told to repeat the request until it is known, and the call is left to it.
          const again = await until('the outcome is known', async () => {
            const answer = await show();
            assert.equal(answer.headers.get('payment-required'), null, 'it asks for money again');
            return answer.code !== 'PAY-010' && answer;
          }, { every_ms: 500, timeout_ms: 30_000 });
          assert.equal(again.code, undefined, again.text);
          await recovered(gateway);
          assert.equal(await parts.settled(), 1);
          assert.equal(await parts.ran('get_slow'), 1);
          await invariants(parts, gateway);
          await clearUp(gateway);
        });
      } finally {
        await parts.stop();
      }
    });
  }
});

describe('a payment of which only a person can find out', () => {
  test('is listed, and ended by what the person found', async () => {
    const parts = await startParts();
    try {
      await withDirectory(async (live) => {
        // Nothing but the caller and the person will look at it for five minutes.
        const gateway = await live(parts, {}, {});
        const args = { ms: 1 };
        const paid = await payFor(parts, gateway, 'upfront', 'get_slow', args);
        await parts.fail('settle_pending');
        const lost = await callTool(gateway, 'upfront', 'get_slow', args, paid);
        assert.deepEqual([lost.code, lost.problem.charged], ['PAY-010', 'unknown'], lost.text);
        const { items } = (await admin(gateway, '/v1/ledger/unsettled')).body;
        const [open] = items;
        assert.equal(items.length, 1);
        assert.deepEqual([open.state, open.amount], ['settling', '0.01 USDC']);
        assert.match(open.nonce, /^0x[0-9a-f]{64}$/);
        const path = `/v1/ledger/unsettled/${open.call}`;
        const end = (reference) => admin(gateway, path, { method: 'POST', body: { reference } });
        const early = await end(null);
        assert.deepEqual([early.status, early.body.code], [409, 'ADM-003'], 'it can still be used');
        assert.equal((await end('')).status, 422);
        const ended = await end(`0x${'ab'.repeat(32)}`);
        assert.deepEqual([ended.status, ended.body.state], [200, 'refund_due']);
        assert.equal((await end('0x1')).status, 409, 'once');
        const again = await callTool(gateway, 'upfront', 'get_slow', args, paid);
        assert.deepEqual([again.code, again.problem.charged], ['PAY-008', 'yes'], again.text);
        assert.equal(await parts.ran('get_slow'), 0);
        const { items: due } = (await admin(gateway, '/v1/ledger/refunds')).body;
        assert.deepEqual(due.map(({ call }) => call), [open.call]);
        await clearUp(gateway);
      });
    } finally {
      await parts.stop();
    }
  });
});

describe('deaths at random moments', () => {
  const seed = Number(process.env.COUNTERSIGN_TEST_SEED ?? Date.now() % 1_000_000);
  const random = generator(seed);
  const ROUNDS = 5;
  const WORKERS = 8;

  test(`under load, ${ROUNDS} times (COUNTERSIGN_TEST_SEED=${seed})`, async () => {
    const parts = await startParts();
    try {
      await withDirectory(async (live) => {
        const answered = new Map();
        const presented = [];
        for (let round = 0; round < ROUNDS; round++) {
          const gateway = await live(parts);
          await recovered(gateway, ['settling']);
          const working = Array.from({ length: WORKERS }, (_, worker) =>
            work(parts, gateway, `${round}/${worker}`, { answered, presented }));
          await sleep(300 + random() * 900);
          await gateway.kill9();
          await Promise.all(working);
        }
        await lookAtIt(parts, await live(parts), { answered, presented });
      });
    } finally {
      await parts.stop();
    }
  });

  async function work(parts, gateway, name, { answered, presented }) {
    for (let turn = 0; ; turn++) {
      const flow = Object.keys(flows)[(turn + name.length) % 4];
      const { tool } = flows[flow];
      const args = { ms: Math.floor(random() * 30), city: `${name}/${turn}` };
      try {
        const paid = flow === 'free' ? {} : await payFor(parts, gateway, flow, tool, args);
        presented.push({ flow, tool, args, paid });
        const answer = await callTool(gateway, flow, tool, args, paid);
        assert.equal(answer.status, 200, answer.text);
        const { call } = receiptOf(answer.result);
        answered.set(call, { flow, tool, args, paid, content: answer.result.content });
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        return; // The gateway is dead.
      }
    }
  }

  async function lookAtIt(parts, gateway, { answered, presented }) {
    await recovered(gateway);
    const { all, taken } = await invariants(parts, gateway);
    assert.ok(answered.size > ROUNDS * 4, `too little to lose: ${answered.size} answers`);
    const states = new Map(all.map(({ call, state }) => [call, state]));
    const lost = [...answered.keys()].filter((call) => states.get(call) !== 'captured');
    assert.deepEqual(lost, [], 'answered, and lost');

    // Every payment is shown once more, answered or not. None may move again.
    const settled = await parts.settled();
    const earnedMsat = await parts.earnedMsat();
    for (const { flow, tool, args, paid } of presented.filter(({ flow }) => flow !== 'free')) {
      const answer = await callTool(gateway, flow, tool, args, paid);
      const before = [...answered.values()].find((one) => one.paid === paid);
      if (before) {
        assert.deepEqual(answer.result?.content, before.content, answer.text);
      } else if (answer.status !== 200) {
        // What the gateway died before taking up may be too late by now; then nothing was taken.
        const isLate = /^PAY-(006|015)$/.test(answer.code);
        if (!isLate) assert.match(answer.code, /^(UPS-002|PAY-008)$/, answer.text);
        const wrong = isLate ? /yes|unknown/ : flow === 'upfront' ? /no/ : /never/;
        assert.doesNotMatch(answer.problem.charged, wrong, answer.text);
      }
    }
    assert.equal(await parts.earnedMsat(), earnedMsat);
    const later = await invariants(parts, gateway);
    const resumed = later.taken.length - taken.length;
    assert.equal(await parts.settled(), settled + resumed, 'money moved without a call');
    for (const [flow, { tool }] of Object.entries(flows)) {
      const ofFlow = later.all.filter((call) => call.tool === `${flow}/${tool}`);
      const count = (...wanted) => ofFlow.filter(({ state }) => wanted.includes(state)).length;
      const ran = await parts.ran(tool);
      assert.ok(ran >= count('captured'), `${flow}: captured without a run`);
      const most = count('captured', flow === 'free' ? 'released' : 'in_doubt');
      assert.ok(ran <= most, `${flow}: ${ran} runs of ${most} calls`);
    }
    await clearUp(gateway);
  }
});

/** Numbers from 0 to 1, the same for a seed. */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe('a death between two recoveries', () => {
  test('each payment is owed back once, and none is settled twice', async () => {
    const parts = await startParts();
    try {
      await withDirectory(async (live) => {
        const first = await live(parts);
        const begun = [];
        for (const of of ['one', 'two', 'three']) {
          const args = { ms: 1, of };
          const paid = await payFor(parts, first, 'upfront', 'get_slow', args);
          await parts.fail('settle_times_out_unpaid');
          const lost = assert.rejects(callTool(first, 'upfront', 'get_slow', args, paid));
          await until('the payment is on its way', async () =>
            (await calls(first)).filter(({ state }) => state === 'settling').length > begun.length);
          // The fault is one request's: the next one must not take it.
          await sleep(300);
          begun.push({ args, paid, lost });
        }
        await first.kill9();
        await Promise.all(begun.map(({ lost }) => lost));
        const second = await live(parts, { COUNTERSIGN_FAILPOINT: RECOVERED });
        await until('it died of its first recovery', () => !second.isRunning(), { timeout_ms: 40_000 });
        const gateway = await live(parts);
        const left = await recovered(gateway);
        assert.deepEqual(left.map(({ state }) => state), Array(3).fill('refund_due'));
        assert.deepEqual([await parts.settled(), await parts.ran('get_slow')], [3, 0]);
        for (const { args, paid } of begun) {
          const again = await callTool(gateway, 'upfront', 'get_slow', args, paid);
          assert.deepEqual([again.code, again.problem.charged], ['PAY-008', 'yes'], again.text);
        }
        await invariants(parts, gateway);
        await clearUp(gateway);
      });
    } finally {
      await parts.stop();
    }
  });
});
