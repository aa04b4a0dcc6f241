// A power cut: what was not synced is gone. The gateway's data lie on a file system in a loop image
// on memory; at the cut its backing file is copied as it is, so that whatever is still in the page
// cache of that file system is lost. What was answered before the cut must be there after it.
//
// The control is the same gateway without syncing each commit: it must lose, else this test shows
// nothing. Needs root and loop devices, and fails without them.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { startGateway } from './lib/gateway.mjs';
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

/** A file system in a file, mounted. */
function mount(image, at, make) {
  mkdirSync(at, { recursive: true });
  if (make) {
    run('truncate', '-s', '96M', image);
    run('mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=0,lazy_journal_init=0', image);
  }
  run('mount', '-o', 'loop', image, at);
  return () => run('umount', at);
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
  const [image, copy] = ['disk', 'after'].map((name) => path.join(home, `${name}-${round}.img`));
  const undo = [];
  try {
    const disk = path.join(home, `disk-${round}`);
    undo.push(mount(image, disk, true));
    const settings = (dir) => ({ config: configBefore(parts, config), dir, env });
    const gateway = await startGateway(settings(disk));
    undo.push(() => gateway.kill9());
    let isCut = false;
    const working = Array.from({ length: 6 }, (_, worker) =>
      work(gateway, `${round}/${worker}`, () => isCut));
    await sleep(700 + round * 150);
    isCut = true;
    await gateway.kill9();
    run('cp', '--sparse=always', image, copy);
    const answered = (await Promise.all(working)).flat();

    const later = path.join(home, `after-${round}`);
    undo.push(mount(copy, later, false));
    const settled = { ...settings(later), port: gateway.port, env: {} };
    const again = await startGateway(settled).catch((error) => {
      // It refuses to start behind its own published log: everything since is gone.
      assert.match(error.message, /older copy/);
      return undefined;
    });
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
    for (const file of [image, copy]) rmSync(file, { force: true });
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
