// The gateway under test: the real binary, as an operator starts it.
//
// The configuration is opaque here. It is written as JSON, which is YAML too.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { freePort, start, until } from './process.mjs';

/** The binary to test: COUNTERSIGN_BIN, or the workspace's debug build. */
export const gatewayBinary =
  process.env.COUNTERSIGN_BIN ??
  fileURLToPath(new URL('../../target/debug/countersign', import.meta.url));

/**
 * Starts a gateway and waits until it is healthy.
 * - `config`: the configuration, or a function ({url, port, dir}) => configuration, for one that
 *   has to say where the gateway listens
 * - `port`, `url`: where it will listen; default a free port of 127.0.0.1
 * - `dir`: its directory, for its files too; default a temporary one that stop() removes
 * - `env`, `args`: added to its environment and to `serve --config FILE`
 */
export async function startGateway({
  config, port, url, dir, env = {}, args = [], bin = gatewayBinary, timeout_ms = 30_000,
}) {
  port ??= url ? Number(new URL(url).port) : await freePort();
  url ??= `http://127.0.0.1:${port}`;
  const ownsDir = !dir;
  dir ??= mkdtempSync(path.join(os.tmpdir(), 'countersign-e2e-'));
  const file = path.join(dir, 'countersign.yaml');
  const configure = (value) => {
    const settled = typeof value === 'function' ? value({ url, port, dir }) : value;
    writeFileSync(file, JSON.stringify(settled, null, 2));
  };
  configure(config);

  let process_ = null;
  let earlierStderr = '';
  const serve = async () => {
    process_ = start(bin, ['serve', '--config', file, ...args], { env, cwd: dir });
    try {
      const isHealthy = async () => (await fetch(`${url}/healthz`)).status === 200;
      await until('the gateway is healthy', isHealthy, { part: process_, timeout_ms });
    } catch (error) {
      await process_.kill9();
      throw error;
    }
  };
  const cleanUp = () => {
    if (ownsDir) rmSync(dir, { recursive: true, force: true });
  };
  process.on('exit', cleanUp);
  await serve();

  return {
    url,
    port,
    dir,
    configFile: file,
    get pid() {
      return process_.pid;
    },
    isRunning: () => process_.isRunning(),
    /** Everything it has written to stderr, over restarts too. */
    stderr: () => earlierStderr + process_.stderr(),
    stdout: () => process_.stdout(),
    /** Writes another configuration to its file; it is the gateway's to notice. */
    configure,
    /** What a command prints, parsed as JSON; throws when it fails. */
    cli: (...commandArgs) => cli(commandArgs.flat(), { bin, file, env, dir }),
    /** The same command without judging it: {code, stdout, stderr}. */
    cliRaw: (...commandArgs) => cliRaw(commandArgs.flat(), { bin, file, env, dir }),
    /** Ends it as a crash would; its directory stays, for restart(). */
    kill9: () => process_.kill9(),
    /** Starts it again on the same directory, configuration and port. */
    async restart() {
      await process_.stop();
      earlierStderr += process_.stderr();
      await serve();
    },
    async stop() {
      const outcome = await process_.stop(15_000);
      cleanUp();
      process.off('exit', cleanUp);
      return outcome;
    },
  };
}

async function cli(args, how) {
  const { code, stdout, stderr } = await cliRaw(args, how);
  const said = `countersign ${args.join(' ')}: exit ${code}\n${stdout}${stderr}`;
  if (code !== 0) throw new Error(said);
  try {
    return JSON.parse(stdout);
  } catch (cause) {
    throw new Error(`no JSON from ${said}`, { cause });
  }
}

async function cliRaw(args, { bin, file, env, dir }) {
  const command = start(bin, ['--config', file, ...args], { env, cwd: dir });
  const { code } = await command.ended;
  if (code === null) throw new Error(`countersign ${args.join(' ')}: ${command.output()}`);
  return { code, stdout: command.stdout(), stderr: command.stderr() };
}

/**
 * Lives of one gateway on one directory and one port, for `act(live)`; ended after it, none of them
 * in a panic. `begin({ dir, port }, ...of)` starts the life that `live(...of)` wants.
 */
export async function withLives(begin, act) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-e2e-'));
  const lives = [];
  const live = async (...of) => {
    const gateway = await begin({ dir, port: lives[0]?.port }, ...of);
    lives.push(gateway);
    return gateway;
  };
  try {
    return await act(live);
  } finally {
    for (const gateway of lives) await gateway.stop();
    const said = lives.map((gateway) => gateway.stderr()).join('');
    rmSync(dir, { recursive: true, force: true });
    if (said.includes('panicked')) throw new Error(said);
  }
}
