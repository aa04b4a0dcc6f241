// A power cut: what was not synced is gone. The gateway's data lie on a file system in a loop image
// on memory; at the cut its backing file is copied as it is, so that whatever is still in the page
// cache of that file system is lost. What was answered before the cut must be there after it.
//
// The control is the same gateway without syncing each commit: it must lose, else this test shows
// nothing. The same at every named point between two states of a call, as in crash.test.mjs. Needs
// root and loop devices, and fails without them.
//
// And a disk that is full: the gateway ends, and what was answered is there when it starts again.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { config as deaths, die, flows, recovered } from './lib/deaths.mjs';
import { startGateway } from './lib/gateway.mjs';
import { until } from './lib/process.mjs';
import {
  buy, callTool, calls, configBefore, l402, receiptOf, startParts, unbalanced, verifyLog,
} from './lib/rig.mjs';

const TMPFS = 0x01021994;
const anonymous = { identity: 'anonymous' };
const config = {
  servers: {
    open: {
      tools: {
        get_forecast: { price: 'free', ...anonymous },
        get_report: { price: '3 sat', ...anonymous },
      },
    },
  },
  // Publishing syncs files, and with them what lies beside: rarely, so that the control may lose.
  audit: { checkpoint: '10m' },
};

let parts;
let home;
before(async () => {
  assert.equal(process.getuid(), 0, 'a power cut needs root: it mounts loop images');
  const memory = ['/dev/shm', os.tmpdir()].find((dir) => statfsSync(dir).type === TMPFS);
  home = mkdtempSync(path.join(memory ?? os.tmpdir(), 'countersign-cut-'));
  parts = await startParts();
});
after(async () => {
  await parts?.stop();
  if (home) rmSync(home, { recursive: true, force: true });
});

const run = (...command) => execFileSync(command[0], command.slice(1), { stdio: 'pipe' });

/** A file system in a file of its own, mounted. */
let made = 0;
function newDisk() {
  const dir = path.join(home, `disk-${made++}`);
  const image = `${dir}.img`;
  run('truncate', '-s', '96M', image);
  run('mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=0,lazy_journal_init=0', image);
  return mounted(image, dir);
}

function mounted(image, dir) {
  mkdirSync(dir);
  run('mount', '-o', 'loop', image, dir);
  return {
    dir,
    /** The power fails: another disk, with what was synced. */
    cut() {
      run('cp', '--sparse=always', image, `${image}.cut`);
      return mounted(`${image}.cut`, `${dir}-cut`);
    },
    /** Somebody else fills it, but for so many bytes; gives it back when told. */
    fill(left) {
      const file = path.join(dir, 'filler');
      const { bavail, bsize } = statfsSync(dir);
      run('fallocate', '-l', String(bavail * bsize - left), file);
      return () => rmSync(file);
    },
    remove() {
      run('umount', dir);
      rmSync(image);
    },
  };
}

/** Works until the cut; gives the calls that were answered before it. */
async function work(gateway, worker, isCut) {
  const answered = [];
  for (let turn = 0; !isCut(); turn++) {
    const args = { city: `${worker}/${turn}` };
    try {
      const isPaid = turn % 4 === 3;
      const tool = isPaid ? 'get_report' : 'get_forecast';
      const headers = isPaid ? l402(await buy(parts, gateway, 'open', tool, args)) : {};
      const answer = await callTool(gateway, 'open', tool, args, { headers });
      assert.equal(answer.status, 200, answer.text);
      // What comes in after the copy was begun was not answered before the cut.
      if (!isCut()) answered.push(receiptOf(answer.result).call);
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      return answered;
    }
  }
  return answered;
}

/** One life, one cut, one recovery: how many were answered, and which of them are gone. */
async function cut(round, env) {
  const undo = [];
  try {
    const disk = newDisk();
    undo.push(disk.remove);
    const settings = ({ dir }) => ({ config: configBefore(parts, config), dir, env });
    const gateway = await startGateway(settings(disk));
    undo.push(() => gateway.kill9());
    let isCut = false;
    const working = Array.from({ length: 6 }, (_, worker) =>
      work(gateway, `${round}/${worker}`, () => isCut));
    await sleep(700 + round * 150);
    isCut = true;
    await gateway.kill9();
    const later = disk.cut();
    undo.push(later.remove);
    const answered = (await Promise.all(working)).flat();

    const settled = { ...settings(later), port: gateway.port, env: {} };
    const again = await startGateway(settled).catch(isBehind);
    if (!again) return { answered: answered.length, lost: answered.length };
    undo.push(() => again.stop());
    const states = new Map((await calls(again)).map(({ call, state }) => [call, state]));
    const lost = answered.filter((call) => states.get(call) !== 'captured');
    assert.deepEqual(await unbalanced(again), []);
    assert.ok(!again.stderr().includes('panicked'), again.stderr());
    if (answered.length > lost.length) {
      await again.stop();
      const { code, findings } = await verifyLog(again);
      assert.deepEqual([code, findings], [0, []], 'the log verifies');
    }
    return { answered: answered.length, lost: lost.length };
  } finally {
    for (const step of undo.reverse()) await step();
  }
}

/** It refuses to start behind its own published log: everything since is gone. */
function isBehind(error) {
  assert.match(error.message, /older copy/);
}

/** Lives of one gateway, with a power cut after each; `act` starts them. */
async function onDisks(act) {
  const undo = [];
  let disk;
  let port;
  const live = async (parts, env = {}) => {
    const isFirst = !disk;
    disk = isFirst ? newDisk() : disk.cut();
    undo.push(disk.remove);
    // The next life publishes as the checks expect.
    const settings = isFirst ? { ...deaths, audit: config.audit } : deaths;
    const gateway = await startGateway({
      config: configBefore(parts, settings), dir: disk.dir, env, port,
    });
    undo.push(() => gateway.stop());
    undo.push(() => assert.ok(!gateway.stderr().includes('panicked'), gateway.stderr()));
    port = gateway.port;
    return gateway;
  };
  try {
    return await act(live);
  } finally {
    for (const step of undo.reverse()) await step();
  }
}

describe('a power cut', { concurrency: 1 }, () => {
  test('loses nothing that was answered', async () => {
    let total = 0;
    for (let round = 0; round < 3; round++) {
      const { answered, lost } = await cut(round, {});
      assert.equal(lost, 0, `${lost} of ${answered} answered calls are gone`);
      total += answered;
    }
    assert.ok(total > 50, `too little to lose: ${total} answers`);
  });

  test('loses something without syncing: the control', async () => {
    const rounds = [];
    for (let round = 3; round < 6; round++) {
      rounds.push(await cut(round, { COUNTERSIGN_TEST_DURABILITY: 'normal' }));
      if (rounds.at(-1).lost > 0) return;
    }
    assert.fail(`nothing was lost, so the cut is none: ${JSON.stringify(rounds)}`);
  });
});

describe('a power cut at each point', { concurrency: 2 }, () => {
  for (const [flow, { leaves }] of Object.entries(flows)) {
    describe(flow, { concurrency: 1 }, () => {
      let own;
      before(async () => (own = await startParts()));
      after(() => own?.stop());
      for (const name of Object.keys(leaves)) {
        test(`${flow} at ${name}`, () => onDisks((live) => die(own, flow, name, live)));
      }
    });
  }

  test('without syncing, a start is forgotten: the control', () => onDisks(async (live) => {
    const env = { COUNTERSIGN_FAILPOINT: 'started', COUNTERSIGN_TEST_DURABILITY: 'normal' };
    const first = await live(parts, env);
    await assert.rejects(callTool(first, 'free', 'get_forecast', { city: 'control' }));
    await until('the process is gone', () => !first.isRunning());
    const gateway = await live(parts).catch(isBehind);
    if (gateway) assert.deepEqual(await recovered(gateway), []);
  }));
});

describe('a full disk', () => {
  test('ends the gateway with the truth, and loses nothing that was answered', async () => {
    const disk = newDisk();
    const gateway = await startGateway({ config: configBefore(parts, config), dir: disk.dir });
    try {
      const answered = [];
      const refused = [];
      const giveBack = disk.fill(2 << 20);
      await Promise.all(Array.from({ length: 6 }, async (_, worker) => {
        for (let turn = 0; gateway.isRunning(); turn++) {
          const call = callTool(gateway, 'open', 'get_forecast', { city: `${worker}/${turn}` });
          const answer = await call.catch(() => undefined);
          if (!answer) return;
          if (answer.result?._meta?.['countersign/receipt']) answered.push(receiptOf(answer.result).call);
          else refused.push(answer);
        }
      }));
      assert.ok(answered.length > 50, `it was full too soon: ${answered.length} answers`);
      assert.ok(refused.length > 0, 'nobody was told');
      for (const { problem, text } of refused) {
        assert.deepEqual([problem?.code, problem?.retry], ['SYS-001', 'later'], text);
        assert.ok(['no', 'unknown'].includes(problem.charged), text);
      }
      await until('it has ended', () => !gateway.isRunning());
      assert.match(gateway.stderr(), /database or disk is full.*start again to recover/s);
      assert.doesNotMatch(gateway.stderr(), /panicked/);

      giveBack();
      await gateway.restart();
      const states = new Map((await calls(gateway)).map(({ call, state }) => [call, state]));
      assert.deepEqual(answered.filter((call) => states.get(call) !== 'captured'), []);
      for (const { problem } of refused.filter(({ problem }) => problem.charged === 'no')) {
        assert.notEqual(states.get(problem.call_id), 'captured');
      }
      assert.deepEqual(await unbalanced(gateway), []);
      await gateway.stop();
      const { code, findings } = await verifyLog(gateway);
      assert.deepEqual([code, findings], [0, []], 'the log verifies');
    } finally {
      await gateway.stop();
      disk.remove();
    }
  });
});
