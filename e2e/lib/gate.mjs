// What the tests of the gateway share: its configuration around the real parts, raw messages to
// it, what its refusals say, and what an operator does.

import { request } from 'node:http';

import { NETWORK, USDC } from './chain.mjs';
import { bearer } from './wire.mjs';

/**
 * The parts that a test file starts, ended in reverse order, also when starting one fails: a part
 * that is left running would keep the test process alive.
 */
export class Parts {
  #started = new Map();

  /** Keeps a part under a name; another one under the same name replaces it. */
  async keep(name, starting) {
    const part = await starting;
    this.#started.set(name, part);
    return part;
  }

  async starting(work) {
    try {
      await work();
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  async stop() {
    for (const part of [...this.#started.values()].reverse()) await part.stop();
    this.#started.clear();
  }
}

/** The issuer of lib/issuer.mjs, as the gateway is told of it. */
export const issuerConfig = (issuer) => ({
  issuer: issuer.url,
  allow_private_network: true,
  tenant_claim: 'org_id',
  human_claim: 'auth_time',
});

export const assets = {
  USDC: {
    network: NETWORK,
    address: USDC,
    decimals: 6,
    name: 'USDC',
    version: '2',
    rate: '1 USD',
  },
  BTC: { network: 'lightning', rate: '60000 USD' },
};

/** Where the built-in facilitator's key is found; see `facilitatorEnv`. */
export const builtinFacilitator = (chain) => ({
  builtin: { rpc: chain.rpc, key: 'env:E2E_FACILITATOR_KEY' },
});
export const facilitatorEnv = (chain) => ({ E2E_FACILITATOR_KEY: chain.facilitator.key });

/** Posts to an MCP endpoint. `body` may be text, for what no serializer would write. */
export async function post(url, body, headers = {}) {
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      ...headers,
    },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    text,
    json: parsed(text, response),
  };
}

function parsed(text, response) {
  try {
    const isStream = response.headers.get('content-type')?.startsWith('text/event-stream');
    return JSON.parse(
      isStream
        ? text
            .match(/^data: ?(.*)$/gm)
            .at(-1)
            .slice(5)
        : text,
    );
  } catch {
    return undefined;
  }
}

/** The same with header lines of any kind, [[name, value]], which fetch would join or refuse. */
export function postRaw(url, body, lines) {
  return new Promise((resolve, reject) => {
    const all = [['host', new URL(url).host], ['content-type', 'application/json'], ...lines];
    const sent = request(url, { method: 'POST', headers: all.flat(), agent: false }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (part) => (text += part));
      answer.on('end', () =>
        resolve({
          status: answer.statusCode,
          headers: answer.headers,
          text,
          json: JSON.parse(text),
        }),
      );
    });
    sent.on('error', reject).end(body);
  });
}

let lastId = 0;

/** A tools/call. */
export const callOf = (name, args = {}, _meta) => ({
  jsonrpc: '2.0',
  id: ++lastId,
  method: 'tools/call',
  params: { name, arguments: args, ...(_meta ? { _meta } : {}) },
});

/** One legacy tools/call, in the MCP form. */
export const call = (url, { token, name, args, meta, headers }) =>
  post(url, callOf(name, args, meta), { ...bearer(token), ...headers });

/** The problem object of a refusal, wherever its form puts it; undefined for none. */
export function problemOf(answer) {
  const body = answer.json ?? answer;
  const problem =
    body.result?._meta?.['countersign/refusal'] ??
    body._meta?.['countersign/refusal'] ??
    body.error?.data ??
    body;
  return problem?.code && problem?.proofs ? problem : undefined;
}

/** The first text of an answered call. */
export const textOf = (answer) => (answer.json?.result ?? answer).content?.[0]?.text;

/** The receipt that a captured call carries. */
export const receiptOf = (answer) => {
  const meta = (answer.json?.result ?? answer)._meta ?? {};
  return Object.entries(meta).find(([key]) => key.includes('receipt'))?.[1];
};

/** A paid L402 credential for the challenge in an HTTP 402 or in a tool result. */
export async function buyL402(answer, pay) {
  const meta = answer.json?.result?._meta?.['ai.bolthub/payment'];
  const offer = meta?.offers[0];
  const token = offer?.token ?? answer.json.macaroon;
  const invoice = offer?.invoice ?? answer.json.invoice;
  return `${token}:${await pay(invoice)}`;
}

export const l402Meta = (proof) => ({ 'ai.bolthub/payment': { scheme: 'l402', proof } });

/** A person's consent: alice's, for the agent her tokens come through. */
export function grant(gateway, issuer, changes = {}) {
  const terms = {
    tenant: 'org_acme',
    issuer: issuer.url,
    subject: 'alice',
    agent: 'web-agent',
    server: 'main',
    tools: ['*'],
    intents: ['read', 'write', 'execute', 'delete'],
    'per-call': '10 USD',
    expires: '1h',
    ...changes,
  };
  const { tools, intents, windows = [], ...rest } = terms;
  return gateway.cli(
    'grant',
    'create',
    ...tools.flatMap((tool) => ['--tool', tool]),
    ...intents.flatMap((intent) => ['--intent', intent]),
    ...windows.flatMap((window) => ['--window', window]),
    ...Object.entries(rest).flatMap(([name, value]) => [`--${name}`, String(value)]),
  );
}
