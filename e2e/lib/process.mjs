// Child processes and ports of the test parts.
//
// Owns every process that a test starts: each is ended by its own id in stop(), and whatever is
// still running when this process exits is killed then. Nothing is ever looked up by name.

import { spawn } from 'node:child_process';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));
for (const [signal, number] of [['SIGINT', 2], ['SIGTERM', 15], ['SIGHUP', 1]]) {
  process.on(signal, () => process.exit(128 + number));
}

/** Starts a process. Its output is collected, not shown; `output()` gives it. */
export function start(command, args, { env = {}, cwd } = {}) {
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text) => (output.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (output.stderr += text));

  let failure;
  const ended = new Promise((resolve) => {
    child.once('error', (error) => {
      failure = error;
      running.delete(child);
      resolve({ code: null, signal: null });
    });
    child.once('close', (code, signal) => {
      running.delete(child);
      resolve({ code, signal });
    });
  });
  const isRunning = () => !failure && child.exitCode === null && child.signalCode === null;

  return {
    pid: child.pid,
    ended,
    isRunning,
    stdout: () => output.stdout,
    stderr: () => output.stderr,
    output: () => `${failure ?? ''}${output.stdout}${output.stderr}`,
    /** Asks it to end, and after `grace_ms` no longer asks. */
    async stop(grace_ms = 5_000) {
      if (isRunning()) child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), grace_ms);
      const outcome = await ended;
      clearTimeout(late);
      return outcome;
    },
    /** Ends it as a crash would: no signal handler runs. */
    async kill9() {
      if (isRunning()) child.kill('SIGKILL');
      return ended;
    },
  };
}

/** A port of 127.0.0.1 that was free a moment ago. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/**
 * Calls `probe` until it gives something true, and returns that. A probe that throws counts as
 * not yet. Gives up at once when `part` (a started process) has ended.
 */
export async function until(what, probe, { timeout_ms = 20_000, every_ms = 50, part } = {}) {
  const deadline = Date.now() + timeout_ms;
  let last;
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    if (part && !part.isRunning()) {
      throw new Error(`${what}: the process ended first\n${part.output()}`);
    }
    if (Date.now() > deadline) {
      const said = part?.output() ?? '';
      throw new Error(`${what}: not within ${timeout_ms} ms\n${said}`, { cause: last });
    }
    await sleep(every_ms);
  }
}
