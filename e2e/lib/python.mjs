// Runs a program of e2e/py in the environment that scripts/install-e2e.sh made.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Gives `job` as JSON on standard input, returns what the program prints. */
export function python(program, { job, args = [], env = {}, timeout_ms = 120_000 } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(`${root}.venv/bin/python`, [`${root}py/${program}`, ...args], {
      env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1', ...env },
      timeout: timeout_ms,
      killSignal: 'SIGKILL',
    });
    const output = { stdout: '', stderr: '' };
    const onExit = () => child.kill('SIGKILL');
    process.once('exit', onExit);
    child.stdout.setEncoding('utf8').on('data', (text) => (output.stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text) => (output.stderr += text));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      process.off('exit', onExit);
      const said = `${output.stdout}${output.stderr}`;
      if (code === 0) resolve(output.stdout);
      else reject(new Error(`${program}: exit ${code ?? signal}\n${said}`));
    });
    child.stdin.on('error', () => {}); // a program that reads no input may be gone already
    child.stdin.end(job === undefined ? '' : JSON.stringify(job));
  });
}

export const pythonJson = async (program, options) => JSON.parse(await python(program, options));
