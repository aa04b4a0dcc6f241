// A Lightning network of our own: a regtest chain and up to four nodes, all of them the project's
// daemon, each with its own directory, channels between them, and what tests do to them.
//
// Only loopback. Money is worthless, signatures, scripts, channels and payments are real.

import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { freePort, start, until } from './process.mjs';

/** The daemon: COUNTERSIGN_LIGHTNING_BIN, or the debug build. */
export const lightningBinary =
  process.env.COUNTERSIGN_LIGHTNING_BIN ??
  fileURLToPath(new URL('../../target/debug/countersign-lightning', import.meta.url));

/** The chain for tests, an example of the same crate and built beside it. */
export const regtestBinary =
  process.env.COUNTERSIGN_REGTEST_BIN ??
  path.join(path.dirname(lightningBinary), 'examples', 'countersign-regtest');

// The test program of BIP 173: nobody's key.
const NOBODY = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';
const CONFIRMATIONS = 6;
const COINBASE_MATURITY = 101;
const REST_MS = 150;

/** An error of a node's API. */
export class NodeError extends Error {
  constructor(what, status, body) {
    super(`${what}: ${status} ${JSON.stringify(body)}`);
    this.status = status;
    this.code = body?.error?.code;
    this.body = body;
  }
}

/** Starts the chain alone: {url, port, rpc(method, ...params), mine(blocks, address), stop()} */
export async function startChain() {
  const port = await freePort();
  const part = start(regtestBinary, [`127.0.0.1:${port}`]);
  const url = `http://127.0.0.1:${port}`;
  const rpc = async (method, ...params) => {
    const body = JSON.stringify({ jsonrpc: '1.0', id: 1, method, params });
    const answer = await (await fetch(url, { method: 'POST', body })).json();
    if (answer.error) throw new Error(`${method}: ${JSON.stringify(answer.error)}`);
    return answer.result;
  };
  await until('the chain answers', () => rpc('getblockchaininfo'), { part });
  return {
    url,
    port,
    rpc,
    mine: (blocks = 1, address = NOBODY) => rpc('generatetoaddress', blocks, address),
    inMempool: async () => (await rpc('getrawmempool')).length,
    output: part.output,
    stop: () => part.stop(),
  };
}

/** Starts a node. `config` is added to its configuration file. */
export async function startNode(chain, name, config = {}) {
  const dir = mkdtempSync(path.join(os.tmpdir(), `countersign-${name}-`));
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  const [apiPort, port] = [await freePort(), await freePort()];
  const file = path.join(dir, 'lightning.yaml');
  const data_dir = path.join(dir, 'data');
  writeFileSync(path.join(dir, 'rpc'), 'nobody asks');
  writeFileSync(file, JSON.stringify({
    network: 'regtest',
    data_dir,
    api: `127.0.0.1:${apiPort}`,
    listen: [`127.0.0.1:${port}`],
    alias: name,
    chain: {
      bitcoind: { url: chain.url, user: 'test', password: `file:${path.join(dir, 'rpc')}` },
    },
    anchor_reserve_sat: 10_000,
    ...config,
  }));

  const url = `http://127.0.0.1:${apiPort}`;
  let part;
  let token;
  const ask = async (method, where, body, headers = { authorization: `Bearer ${token}` }) => {
    const init = { method, headers };
    if (body !== undefined) init.body = typeof body === 'string' ? body : JSON.stringify(body);
    const response = await fetch(url + where, init);
    return { status: response.status, body: await response.json() };
  };
  const call = async (method, where, body) => {
    const answer = await ask(method, where, body);
    if (answer.status >= 400) throw new NodeError(`${method} ${where}`, answer.status, answer.body);
    return answer.body;
  };
  const run = async () => {
    part = start(lightningBinary, [file]);
    await until(`${name} answers`, async () => {
      token = readFileSync(path.join(data_dir, 'api.token'), 'utf8');
      return call('GET', '/v1/info');
    }, { part, timeout_ms: 60_000 });
  };
  await run();
  const { node_id } = await call('GET', '/v1/info');

  return {
    name, dir, data_dir, file, url, node_id,
    address: `127.0.0.1:${port}`,
    tokenFile: path.join(data_dir, 'api.token'),
    /** Whom it has channels with, to find again after a restart. */
    peers: new Set(),
    ask,
    call,
    output: () => part.output(),
    isRunning: () => part.isRunning(),
    stop: () => part.stop(),
    kill9: () => part.kill9(),
    run,
    pid: () => part.pid,
  };
}

/**
 * Starts the chain, the nodes, and the channels, and waits until all can be used.
 * - `nodes`: names, or [name, (nodes so far) => configuration]
 * - `channels`: [from, to, {capacity_sat, push_msat}]
 * - `poor`: names of nodes that get no on-chain money
 * @returns {chain, nodes: {name: node}, mine(blocks), open(from, to, terms), usable(), stop()}
 */
export async function startLightning({
  nodes: wanted = ['gateway', 'payer'],
  channels = [['payer', 'gateway']],
  poor = [],
} = {}) {
  const chain = await startChain();
  const nodes = {};
  const running = () => Object.values(nodes).filter((node) => node.isRunning());
  const stop = async () => {
    await Promise.all(running().map((node) => node.stop()));
    await chain.stop();
  };
  const mine = async (blocks = 1, address) => {
    await chain.mine(blocks, address);
    const height = await chain.rpc('getblockcount');
    await Promise.all(running().map((node) => until(`${node.name} sees block ${height}`, async () =>
      (await node.call('POST', '/v1/sync')).height >= height, { every_ms: 200 })));
  };
  const open = async (from, to, { capacity_sat = 1_000_000, push_msat = 200_000_000 } = {}) => {
    const peer = { node_id: to.node_id, address: to.address };
    const before = await chain.inMempool();
    await from.call('POST', '/v1/channels', { ...peer, capacity_sat, push_msat });
    await until('the channel is funded', async () => (await chain.inMempool()) > before);
    from.peers.add(to);
    to.peers.add(from);
    await mine(CONFIRMATIONS);
    await Promise.all([from, to].map((node) => usable(node)));
  };
  try {
    await chain.mine();
    for (const entry of wanted) {
      const [name, config] = Array.isArray(entry) ? entry : [entry, () => ({})];
      nodes[name] = await startNode(chain, name, config(nodes));
    }
    for (const node of running().filter(({ name }) => !poor.includes(name))) {
      const { address } = await node.call('POST', '/v1/address');
      await chain.mine(2, address);
    }
    await mine(COINBASE_MATURITY);
    for (const [from, to, terms] of channels) await open(nodes[from], nodes[to], terms);
    return { chain, nodes, mine, open, stop };
  } catch (error) {
    const said = running().map((node) => `-- ${node.name}\n${node.output()}`).join('\n');
    await stop();
    throw new Error(`${error.message}\n${said}`, { cause: error });
  }
}

/** Waits until every channel of the node can carry payments. */
export const usable = (node) =>
  until(`${node.name}'s channels are usable`, async () => {
    const { channels } = await balances(node);
    return channels.length > 0 && channels.every((channel) => channel.usable);
  }, { timeout_ms: 60_000, every_ms: 100 });

/** Pays an invoice, and waits for the end. */
export const pay = (node, bolt11, { max_fee_msat = 10_000, wait_s = 30 } = {}) =>
  node.call('POST', '/v1/payments', { bolt11, max_fee_msat, wait_s });

export const balances = (node) => node.call('GET', '/v1/balances');

/** The nodes' balances once nothing is on its way between them: a moment without change. */
export async function atRest(...nodes) {
  const read = () => Promise.all(nodes.map(balances));
  let last = await read();
  return until('nothing is on its way', async () => {
    await sleep(REST_MS);
    const next = await read();
    const isSame = JSON.stringify(next) === JSON.stringify(last);
    last = next;
    return isSame && last;
  });
}

/** Waits until the node's balance at rest is this many msat apart from `before`. */
export const moved = (node, before, msat) =>
  until(`${node.name}'s balance has moved by ${msat} msat`, async () => {
    const [{ outbound_msat }] = await atRest(node);
    return outbound_msat - before.outbound_msat === msat;
  });

/**
 * Ends the daemon as a crash would. Let it be at rest: killed while a channel changes, the node can
 * find itself behind that channel, and closes it.
 */
export const kill = (node) => node.kill9();

/** Starts it again, and finds its peers. */
export async function restart(node) {
  await node.run();
  for (const peer of [...node.peers].filter((other) => other.isRunning())) {
    const { node_id, address } = peer;
    await until(`${node.name} finds ${peer.name}`, () =>
      node.call('POST', '/v1/peers', { node_id, address }));
  }
  if (node.peers.size > 0) await usable(node);
}

/** A preimage and its hash. */
export function secret() {
  const preimage = randomBytes(32);
  const payment_hash = createHash('sha256').update(preimage).digest('hex');
  return { preimage: preimage.toString('hex'), payment_hash };
}

/** Waits for the first event after the cursor that fits; gives it. */
export async function event(node, cursor, fits) {
  const deadline = Date.now() + 30_000;
  for (let at = cursor; Date.now() < deadline;) {
    const answer = await node.call('GET', `/v1/events?cursor=${at}&wait_s=5`);
    const found = answer.events.find(fits);
    if (found) return found;
    at = answer.cursor;
  }
  throw new Error(`${node.name}: no such event after ${cursor}\n${node.output()}`);
}

/** The cursor after all that has happened. */
export async function now(node) {
  for (let cursor = 0; ;) {
    const answer = await node.call('GET', `/v1/events?cursor=${cursor}&limit=1000`);
    if (answer.events.length === 0) return cursor;
    cursor = answer.cursor;
  }
}
