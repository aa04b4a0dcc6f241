// A gateway before the sandbox parts, raw calls to it, and what can be asked behind its back: what
// ran how often, whose money moved, what the ledger and the log say.

import { createHash } from 'node:crypto';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

import { startGateway } from './gateway.mjs';
import { legacyClient } from './mcpclients.mjs';
import { until } from './process.mjs';
import { startSandbox } from './sandbox.mjs';

export const TOKEN = '0x036CbD53842c5426634e7929541eC2318f3dCF7e';
export const MERCHANT = '0x209693Bc6afc0C5328bA36FaF03C514EF312287C';
export const MODERN = '2026-07-28';

/** The sandbox parts, with questions to them. */
export async function startParts() {
  const parts = await startSandbox();
  const get = async (url) => (await fetch(url)).json();
  const facilitator = () => get(`${parts.facilitator}/balances`);
  let probe;
  const runs = async () => {
    probe ??= await legacyClient(parts.server);
    const { content } = await probe.callTool({ name: 'status', arguments: {} });
    return JSON.parse(content[0].text).runs;
  };
  return {
    ...parts,
    /** How often a tool has run, asked behind the gateway's back. */
    ran: async (tool) => (await runs())[tool] ?? 0,
    /** What has come in over Lightning. */
    earnedMsat: async () => (await get(`${parts.lightning}/balances`)).node_msat,
    /** How many x402 payments have settled, and what came in by them. */
    settled: async () => (await facilitator()).settled,
    async earnedMinor() {
      const { balances } = await facilitator();
      if (balances.length === 0) return 0n;
      // Everybody starts with the same, and nothing is lost: so with the mean.
      const sum = balances.reduce((total, { amount }) => total + BigInt(amount), 0n);
      const [own] = balances.filter(({ account }) => account.toLowerCase() === MERCHANT.toLowerCase());
      return BigInt(own.amount) - sum / BigInt(balances.length);
    },
    /** The facilitator's next `times` requests go wrong so. */
    async fail(fault, times = 1) {
      const body = JSON.stringify({ fault, times });
      const answer = await fetch(`${parts.facilitator}/fault`, { method: 'POST', body });
      if (!answer.ok) throw new Error(`fault: ${answer.status} ${await answer.text()}`);
    },
    async stop() {
      await probe?.close();
      return parts.stop();
    },
  };
}

/** A configuration before the parts. Members of `rest` replace those here. */
export function configBefore(parts, { servers, issuers = [], hold = false, ...rest }) {
  return ({ port }) => ({
    listen: `127.0.0.1:${port}`,
    data_dir: './data',
    sandbox: true,
    issuers: issuers.map((issuer) => ({
      allow_private_network: true,
      human_claim: 'auth_time',
      ...(typeof issuer === 'string' ? { issuer } : issuer),
    })),
    assets: {
      USDC: {
        network: 'eip155:84532',
        address: TOKEN,
        decimals: 6,
        name: 'USDC',
        version: '2',
        rate: '1 USD',
      },
      BTC: { network: 'lightning', rate: '60000 USD' },
    },
    rails: {
      x402: { pay_to: MERCHANT, facilitator: { sandbox: parts.facilitator } },
      l402: { source: { sandbox: parts.lightning }, hold },
    },
    servers: Object.fromEntries(
      Object.entries(servers).map(([name, server]) => [
        name,
        { upstream: parts.server, relay: { anonymous: true }, ...server },
      ]),
    ),
    // Tests are impatient, and leave more quotes open than a caller should.
    audit: { checkpoint: '100ms' },
    limits: { open_quotes_per_principal: 4096 },
    ...rest,
  });
}

/** A gateway with that configuration; `options` are those of startGateway. */
export const startBefore = (parts, config, options = {}) =>
  startGateway({ config: configBefore(parts, config), ...options });

/** `Accept` of an MCP client: challenges and denials come inside MCP. Without it they are HTTP. */
export const MCP_ACCEPT = { accept: 'application/json, text/event-stream' };

export const MODERN_META = {
  'io.modelcontextprotocol/protocolVersion': MODERN,
  'io.modelcontextprotocol/clientCapabilities': {},
};

export const modernHeaders = (method, name) => ({
  'content-type': 'application/json',
  'mcp-protocol-version': MODERN,
  'mcp-method': method,
  ...(name === undefined ? {} : { 'mcp-name': name }),
});

/** A tools/call of the modern era as {url, init}, for any fetch. */
export function toolCall(gateway, at, tool, args = {}, { headers = {}, meta = {}, id = 1 } = {}) {
  const params = { name: tool, arguments: args, _meta: { ...MODERN_META, ...meta } };
  return {
    url: `${gateway.url}/${at}/mcp`,
    init: {
      method: 'POST',
      headers: { ...modernHeaders('tools/call', tool), ...headers },
      body: JSON.stringify({ jsonrpc: '2.0', id, method: 'tools/call', params }),
    },
  };
}

/** Makes that call; gives what answerOf says. */
export async function callTool(gateway, at, tool, args, options) {
  const { url, init } = toolCall(gateway, at, tool, args, options);
  return answerOf(await fetch(url, init));
}

/**
 * An answer in whichever form: {status, headers, text, message, result, problem, code}. `code` is
 * the refusal's, undefined for a result.
 */
export const answerOf = async (response) =>
  read(response.status, response.headers, await response.text());

function read(status, headers, text) {
  const message = messageOf(text);
  const result = message?.result;
  const problem =
    result?._meta?.['countersign/refusal'] ??
    message?.error?.data ??
    (message?.jsonrpc ? undefined : message);
  return { status, headers, text, message, result, problem, code: problem?.code };
}

function messageOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    const lines = text.split('\n').filter((line) => /^data: *\{/.test(line));
    const events = lines.map((line) => JSON.parse(line.slice(5)));
    return events.find((event) => event.result || event.error);
  }
}

/** POSTs with header lines exactly as given, [name, value, name, value, …], repeats and all. */
export function postRaw(url, lines, body) {
  return new Promise((resolve, reject) => {
    const length = String(Buffer.byteLength(body));
    const own = ['host', new URL(url).host, 'content-length', length, 'connection', 'close'];
    const request = http.request(url, { method: 'POST', headers: [...own, ...lines] }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (part) => (text += part));
      answer.on('end', () => {
        const headers = new Headers();
        for (const [name, value] of Object.entries(answer.headers)) {
          for (const one of [value].flat()) headers.append(name, one);
        }
        resolve(read(answer.statusCode, headers, text));
      });
    });
    request.on('error', reject);
    request.end(body);
  });
}

/** The same for a tools/call: `lines` come after the headers of the modern era. */
export function callRaw(gateway, at, tool, args, lines) {
  const { url, init } = toolCall(gateway, at, tool, args);
  return postRaw(url, [...Object.entries(init.headers).flat(), ...lines], init.body);
}

/** What a challenge offers over Lightning, from either form: {token, invoice}. */
export function lightningOffer(answer) {
  const form = /^L402 macaroon="([^"]+)", invoice="([^"]+)", version="0", token="([^"]+)"$/;
  const header = answer.headers.get('www-authenticate') ?? '';
  const [, macaroon, invoice, token] = form.exec(header) ?? [];
  if (macaroon && macaroon === token) return { token, invoice };
  const offer = answer.result?._meta?.['ai.bolthub/payment']?.offers?.[0];
  return offer && { token: offer.token, invoice: offer.invoice };
}

/** What a challenge offers as x402, from either form. */
export function x402Challenge(answer) {
  const header = answer.headers.get('payment-required');
  if (header) return JSON.parse(Buffer.from(header, 'base64').toString('utf8'));
  return answer.result?.structuredContent;
}

/** Gets a challenge for this call and pays it from the wallet: {token, invoice, preimage}. */
export async function buy(parts, gateway, at, tool, args, options) {
  const answer = await callTool(gateway, at, tool, args, options);
  const offer = lightningOffer(answer);
  if (!offer) throw new Error(`no Lightning offer: ${answer.status} ${answer.text}`);
  return { ...offer, preimage: await parts.pay(offer.invoice) };
}

/** The headers that present a paid credential. */
export const l402 = ({ token, preimage }) => ({ authorization: `L402 ${token}:${preimage}` });

/** The admin API: {status, body}. `raw` is a body sent as it is. */
export async function admin(gateway, path, options = {}) {
  // Its socket is there a moment after the public listener; a dead process has left one behind.
  for (let tries = 0; ; tries++) {
    try {
      return await ask(gateway, path, options);
    } catch (error) {
      if (tries === 50 || !['ECONNREFUSED', 'ENOENT'].includes(error.code)) throw error;
      await sleep(50);
    }
  }
}

function ask(gateway, path, { method = 'GET', body, headers = {}, raw }) {
  return new Promise((resolve, reject) => {
    const sent = raw ?? (body === undefined ? undefined : JSON.stringify(body));
    const json = sent === undefined ? {} : { 'content-type': 'application/json' };
    const options = {
      socketPath: `${gateway.dir}/data/admin.sock`,
      path,
      method,
      headers: { ...json, ...headers },
      timeout: 20_000,
    };
    const request = http.request(options, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => (text += part));
      response.on('end', () => {
        const isJson = /json/.test(response.headers['content-type'] ?? '');
        resolve({ status: response.statusCode, headers: response.headers, body: isJson ? JSON.parse(text) : text });
      });
    });
    request.on('error', reject);
    request.on('timeout', () => request.destroy(new Error(`${path}: no answer`)));
    request.end(sent);
  });
}

/** All calls that the gateway knows, the oldest first. */
export async function calls(gateway) {
  const found = [];
  for (let before = ''; ; before = `&before=${found.at(-1).call}`) {
    const { body } = await admin(gateway, `/v1/calls?limit=1000${before}`);
    found.push(...body.items);
    if (body.items.length < 1000) return found.reverse();
  }
}

/** Every account: {tenant, account, asset, posted, pending_in, pending_out}, fine-grained. */
export async function accounts(gateway) {
  const { body } = await admin(gateway, '/v1/ledger/balances');
  return body.items.map(({ tenant, account, posted, pending_in, pending_out }) => ({
    tenant,
    account,
    asset: posted.split(' ')[1],
    posted: units(posted),
    pending_in: units(pending_in),
    pending_out: units(pending_out),
  }));
}

// "-0.01 USDC" in units of a twelfth decimal, whatever the asset: sums and zeros are what matters.
function units(text) {
  const [, sign, whole, fraction = ''] = /^(-?)(\d+)(?:\.(\d{1,12}))? /.exec(text);
  return BigInt(`${sign}${whole}${fraction.padEnd(12, '0')}`);
}

/** Sums of tenant and asset that are not zero: there must be none. */
export async function unbalanced(gateway) {
  const sums = new Map();
  for (const { tenant, asset, posted } of await accounts(gateway)) {
    const key = `${tenant} ${asset}`;
    sums.set(key, (sums.get(key) ?? 0n) + posted);
  }
  return [...sums].filter(([, sum]) => sum !== 0n).map(([key, sum]) => `${key}: ${sum}`);
}

/** Waits until all that happened is under a checkpoint; gives the gateway's status. */
export const published = (gateway) =>
  until('the log is published', async () => {
    const { body } = await admin(gateway, '/v1/status');
    return body.published === body.records && body;
  });

/** `audit verify` with these arguments: its exit code and its report. */
export async function verifyLog(gateway, ...args) {
  const { code, stdout, stderr } = await gateway.cliRaw('audit', 'verify', ...args);
  if (!stdout.startsWith('{')) throw new Error(`audit verify: exit ${code}\n${stdout}${stderr}`);
  return { code, ...JSON.parse(stdout) };
}

/** What a result's receipt says, unverified. */
export function receiptOf(result) {
  const token = result?._meta?.['countersign/receipt'];
  return token && JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString('utf8'));
}

export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
