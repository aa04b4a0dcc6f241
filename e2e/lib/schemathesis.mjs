// schemathesis against the admin API: every check, a fixed seed, loopback only.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const binary = fileURLToPath(new URL('../.venv/bin/schemathesis', import.meta.url));

/** A TCP port of loopback that leads to a Unix socket: {url, stop}. */
export async function toSocket(socket) {
  const open = new Set();
  const server = net.createServer((near) => {
    const far = net.connect(socket);
    for (const [side, other] of [[near, far], [far, near]]) {
      open.add(side);
      side.on('error', () => {});
      side.on('close', () => {
        open.delete(side);
        other.destroySoon();
      });
    }
    near.pipe(far).pipe(near);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const stop = () => {
    for (const side of open) side.destroy();
    return new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://127.0.0.1:${server.address().port}`, stop };
}

/**
 * Runs schemathesis on the document at `url`, and gives what it prints. `config` is its TOML.
 *
 * @throws when a check fails, with all that it says
 */
export function schemathesis(url, document, { config = '', args = [], timeout_ms = 400_000 } = {}) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-schemathesis-'));
  const file = path.join(dir, 'schemathesis.toml');
  writeFileSync(file, config);
  const all = ['--config-file', file, 'run', document, '--url', url, '--no-color', ...args];
  return new Promise((resolve, reject) => {
    const child = spawn(binary, all, {
      cwd: dir,
      env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1', NO_PROXY: '*', SCHEMATHESIS_HOOKS: '' },
      timeout: timeout_ms,
      killSignal: 'SIGKILL',
    });
    const onExit = () => child.kill('SIGKILL');
    process.once('exit', onExit);
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (said += text));
    }
    child.once('error', reject);
    child.once('close', (code, signal) => {
      process.off('exit', onExit);
      rmSync(dir, { recursive: true });
      if (code === 0) resolve(said);
      else reject(new Error(`schemathesis: exit ${code ?? signal}\n${said}`));
    });
  });
}
