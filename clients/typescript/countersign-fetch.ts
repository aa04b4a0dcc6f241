/**
 * A `fetch` that pays for MCP tool calls: proof of work, x402, L402.
 *
 *     const fetch = countersign({ account: privateKeyToAccount(key), payInvoice: wallet.pay });
 *     await fetch(url, { method: 'POST', headers, body: JSON.stringify(call) });
 *     new StreamableHTTPClientTransport(url, { fetch });
 *
 * A `tools/call` that is answered with a challenge is paid for, within the caps, and sent once more
 * with the payment; a second challenge ends it. What is paid for and not used up is kept by server,
 * tool, caller and arguments, and presented first: no call is paid twice. Everything else passes as
 * it came, denials and challenges that are not paid too; `say` gets the reason in a sentence.
 *
 * Amounts are bigints in minor units: of USDC a millionth, of BTC a millisatoshi. One file, which
 * needs the platform and nothing else: Node 20 or later, or what has its `node:` modules.
 *
 * Does not: sign in, check receipts, pay challenges that come inside an event stream, share its
 * limits between processes that run at the same time.
 */

import { createHash, randomBytes } from 'node:crypto';
import {
  appendFileSync, closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;
export type Amounts = Record<string, bigint>;

/** What pays x402: an account of `viem`, or anything of its shape. */
export interface Account {
  address: `0x${string}`;
  signTypedData(data: TypedData): Promise<`0x${string}`>;
}

export interface TypedData {
  domain: { name: string; version: string; chainId: number; verifyingContract: `0x${string}` };
  types: typeof TRANSFER;
  primaryType: 'TransferWithAuthorization';
  message: {
    from: `0x${string}`; to: `0x${string}`; value: bigint;
    validAfter: bigint; validBefore: bigint; nonce: `0x${string}`;
  };
}

export interface Options {
  /** What sends; the platform's own. */
  fetch?: Fetch;
  /** Pays x402. */
  account?: Account;
  /**
   * Pays a Lightning invoice and gives the preimage in hex. Throws `NotPaid` if nothing was paid;
   * after any other error it is asked for the same invoice again, and must not pay it a second
   * time (Lightning wallets do not).
   */
  payInvoice?: (bolt11: string) => Promise<string>;
  /** The most that one call may cost, by asset: what it does not name is not spent. Ten cents. */
  perCall?: Amounts;
  /** The most in any 60 minutes. */
  perHour?: Amounts;
  /** The most on one host in any 24 hours. */
  perHostDay?: Amounts;
  /** The only hosts that are paid; any if absent. */
  hosts?: string[];
  /** Hashes to make, on average, where work is taken instead of money; 0 for none. */
  work?: number;
  /** Further tokens: `{'eip155:…/erc20:0x…': 'CODE'}`. */
  assets?: Record<string, string>;
  /** A directory that keeps credentials and the spend log over restarts. */
  state?: string;
  /** Gets what a person should read. */
  say?: (text: string) => void;
  /** Shows a page on which a person approves a call. */
  openPage?: (url: string) => void;
  /** How long to wait for that; without waiting the denial is what the caller gets. */
  approvalWaitMs?: number;
}

/** Thrown by `payInvoice` when it is certain that nothing was paid. */
export class NotPaid extends Error {}

type Json = Record<string, any>;

/** What was, or may have been, paid. `proof` is secret. */
interface Credential {
  rail: 'x402' | 'l402' | 'pow';
  asset: string;
  minor: string;
  /** The nonce, or the digest of the invoice. */
  id: string;
  expiresAt: number;
  /** `null`: as often as it likes. */
  uses: number | null;
  inMeta: boolean;
  proof: Json;
  earlier?: boolean;
}

/** A `tools/call`, as it is about to be sent. */
interface Call {
  request: Request;
  text: string;
  message: Json;
  /** Can be written again without changing a number. */
  isExact: boolean;
  tool: string;
  /** Server, tool, caller. */
  scope: string;
  /** And arguments. */
  key: string;
}

/** What a response says about money. `gone`: there was nothing to present. */
interface Answer {
  kind: 'done' | 'asked' | 'refused' | 'failed' | 'input' | 'stream' | 'gone';
  offers: Json[];
  problem: Json;
}

/** A response, and the answer where the call may be paid (anew). */
interface Presented {
  response?: Response;
  anew?: Answer;
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const APPROVAL_PAUSE_MS = 2_000;
/** The longest a signature of ours is valid, whatever an offer asks. */
const WINDOW_MAX_S = 900;
/** What a token is called, by CAIP-19 in lower case. */
const ASSETS: Record<string, string> = {
  'eip155:8453/erc20:0x833589fcd6edb6e08f4c7c32d4f71b54bda02913': 'USDC',
  'eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e': 'USDC',
};
const TRANSFER = {
  TransferWithAuthorization: [
    { name: 'from', type: 'address' },
    { name: 'to', type: 'address' },
    { name: 'value', type: 'uint256' },
    { name: 'validAfter', type: 'uint256' },
    { name: 'validBefore', type: 'uint256' },
    { name: 'nonce', type: 'bytes32' },
  ],
} as const;
/** The L402 credential that was shown is no good. */
const BAD_CREDENTIAL = ['PAY-012', 'PAY-013', 'PAY-014', 'PAY-017'];
/** Somebody has said no. */
const DENIED = ['CNS-009', 'CNS-012'];

/** A `fetch` that pays, within limits. */
export function countersign(options: Options = {}): Fetch {
  const purse = new Purse(options);
  return (input, init) => purse.fetch(input, init);
}

class Purse {
  #options: Options;
  #send: Fetch;
  #assets: Record<string, string>;
  #kept = new Map<string, Credential>();
  #taken = new Set<string>();
  #spent = new Map<string, Json>();

  constructor(options: Options) {
    this.#options = options;
    this.#send = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    const more = Object.entries(options.assets ?? {}).map(([caip, code]) => [caip.toLowerCase(), code]);
    this.#assets = { ...ASSETS, ...Object.fromEntries(more) };
    if (options.state) this.#load(options.state);
  }

  async fetch(input: string | URL | Request, init?: RequestInit): Promise<Response> {
    const method = init?.method ?? (input instanceof Request ? input.method : 'GET');
    if (method !== 'POST') return this.#send(input, init);
    const request = new Request(input, init);
    const text = await request.clone().text();
    const call = readCall(request, text);
    if (!call) return this.#send(request);
    const held = this.#take(call);
    if (held) {
      const { response, anew } = await this.#present(call, ...held);
      if (response && !anew) return response;
      if (response && anew?.kind === 'asked') return this.#pay(call, response, anew);
    }
    const { response, answer } = await this.#ask(call);
    return answer.kind === 'asked' ? this.#pay(call, response, answer) : response;
  }

  /** Pays and presents it, once; what asked is the answer where nothing is paid. */
  async #pay(call: Call, asked: Response, answer: Answer): Promise<Response> {
    const entry = await this.#choose(call, answer.offers);
    if (!entry) return asked;
    const key = entry.uses === 1 ? call.key : call.scope;
    const { response } = await this.#present(call, key, entry);
    return response ?? asked;
  }

  /** The call without a payment; where a person must approve it, until somebody has. */
  async #ask(call: Call): Promise<{ response: Response; answer: Answer }> {
    const until = Date.now() + (this.#options.approvalWaitMs ?? 0);
    for (let shown: string | undefined; ; await sleep(APPROVAL_PAUSE_MS)) {
      const response = await this.#send(call.request.url, sent(call, call.request.headers, call.text));
      const answer = await readAnswer(response);
      const url = pageOf(answer);
      if (!url || (shown && url !== shown)) return { response, answer };
      // What was brought back counts once, and was shown already.
      if ('requestState' in call.message.params) return { response, answer };
      if (!shown) {
        this.#say(`${answer.problem.title}: approve it at ${url}`);
        this.#options.openPage?.(url);
        shown = url;
      }
      if (Date.now() >= until) return { response, answer };
    }
  }

  /** Pays if need be and presents the payment, once. */
  async #present(call: Call, key: string, entry: Credential): Promise<Presented> {
    try {
      if (!(await this.#prove(call, key, entry))) {
        return entry.earlier ? { anew: { kind: 'gone', offers: [], problem: {} } } : {};
      }
      const response = await this.#send(call.request.url, { ...paid(call, entry), redirect: 'manual' });
      const answer = await readAnswer(response);
      if (answer.kind !== 'stream') return { response, anew: this.#conclude(call, key, entry, answer) };
      const ended = (text: string) => {
        this.#conclude(call, key, entry, judged(text, 200, new Headers()));
      };
      return { response: watched(response, ended, () => this.#lose(call, entry)) };
    } catch (error) {
      this.#lose(call, entry);
      throw error;
    }
  }

  /** The answer was lost: the same call presents the same payment again. */
  #lose(call: Call, entry: Credential): void {
    this.#note(call, entry, 'unknown');
    this.#taken.delete(entry.id);
    if (entry.rail === 'pow') return;
    this.#say('money may have moved: repeat the very same call, it is not paid again');
  }

  /** Whether there is something to present: pays the invoice, does the work. */
  async #prove(call: Call, key: string, entry: Credential): Promise<boolean> {
    const { proof } = entry;
    if (entry.rail === 'pow' && !proof.solution) {
      const solution = await solve(proof.nonce, proof.target, entry.expiresAt);
      if (solution === undefined) {
        this.#say('not paid: the work was not done in time');
        this.#forget(key, entry);
        return false;
      }
      entry.proof = { nonce: proof.nonce, solution };
    }
    if (entry.rail === 'l402' && !proof.preimage) {
      let preimage: string;
      try {
        preimage = await this.#options.payInvoice!(proof.invoice);
      } catch (error) {
        if (!(error instanceof NotPaid)) throw error;
        this.#say('not paid: the wallet did not pay');
        this.#note(call, entry, 'not_charged');
        this.#forget(key, entry);
        return false;
      }
      const hash = createHash('sha256').update(Buffer.from(preimage, 'hex')).digest();
      if (!Buffer.from(proof.token, 'base64').includes(hash)) {
        throw new Error("the wallet's preimage is not of this invoice");
      }
      entry.proof = { ...proof, preimage };
      this.#keep(key, entry);
    }
    return true;
  }

  /** Writes down what an answer says about a payment; gives it where the call may be paid anew. */
  #conclude(call: Call, key: string, entry: Credential, answer: Answer): Answer | undefined {
    const { code = '', charged, receipt } = answer.problem;
    const isL402 = entry.rail === 'l402';
    const isBad = isL402 && BAD_CREDENTIAL.includes(code);
    if (answer.kind === 'done') {
      this.#note(call, entry, 'answered', receipt);
      this.#forget(key, entry, true);
      const how = entry.earlier ? 'used' : 'paid';
      this.#say(`${how} ${entry.minor} minor units of ${entry.asset} over ${entry.rail}`);
      return undefined;
    }
    if (answer.kind === 'input') {
      this.#note(call, entry, 'unused');
      this.#taken.delete(entry.id);
      return undefined;
    }
    const isAskedAnew = answer.kind === 'asked' && (charged === 'no' || (isL402 && !charged));
    if (entry.earlier && (isBad || isAskedAnew)) {
      if (charged === 'no' && !isL402) this.#note(call, entry, 'not_charged');
      this.#forget(key, entry);
      return answer;
    }
    if (entry.rail === 'pow') {
      this.#forget(key, entry);
    } else if (charged === 'no' && !isL402) {
      this.#note(call, entry, 'not_charged');
      this.#forget(key, entry);
    } else if (charged === 'yes' || (isBad && charged !== 'unused')) {
      this.#note(call, entry, 'charged');
      this.#forget(key, entry);
    } else {
      const isUnused = isL402 && answer.kind !== 'failed' && [undefined, 'no', 'unused'].includes(charged);
      this.#note(call, entry, isUnused ? 'unused' : 'unknown');
      this.#taken.delete(entry.id);
    }
    this.#say(`${code || 'refused'} after a payment; charged: ${charged ?? 'not said'}`);
    return undefined;
  }

  // What is paid.

  /** The first offer that may be taken, reserved and kept; says why where there is none. */
  async #choose(call: Call, offers: Json[]): Promise<Credential | undefined> {
    const reasons: string[] = [];
    for (const offer of offers) {
      const priced = this.#price(call, offer);
      if (typeof priced === 'string') {
        reasons.push(priced);
        continue;
      }
      // Nothing else runs between the look at the ceilings and this.
      this.#note(call, priced, 'paying');
      try {
        if (offer.rail === 'x402') priced.proof = await this.#sign(offer, priced);
      } catch (error) {
        this.#note(call, priced, 'not_charged');
        throw error;
      }
      this.#keep(priced.uses === 1 ? call.key : call.scope, priced);
      return priced;
    }
    this.#say(`not paid: ${reasons.join('; ') || 'no offer that can be read'}`);
    return undefined;
  }

  /** What an offer costs, or why it is not paid. */
  #price(call: Call, offer: Json): Credential | string {
    const { account, payInvoice, hosts, work = 1_000_000 } = this.#options;
    const { perCall = { USDC: 100_000n } } = this.#options;
    const { rail, inMeta } = offer;
    if (rail === 'pow') {
      if ((1n << 64n) / (BigInt(`0x${offer.target.slice(0, 16)}`) + 1n) > BigInt(work)) {
        return 'work: more than may be done';
      }
      const [id, expiresAt] = [digest(offer.nonce), Number(offer.expiresAt)];
      return { rail, asset: 'WORK', minor: '0', id, expiresAt, uses: 1, inMeta, proof: offer };
    }
    let asset: string | undefined = 'BTC';
    let minor: bigint | undefined;
    if (rail === 'l402') {
      if (!payInvoice) return 'l402: no wallet';
      minor = invoiceMsat(offer.invoice);
      if (minor === undefined) return 'l402: the invoice has no amount';
      if (offer.amount !== undefined && BigInt(offer.amount) * 1000n !== minor) {
        return 'l402: the invoice asks another amount than the offer';
      }
    } else {
      if (!account) return 'x402: no account';
      const { extra } = offer.accepted;
      if (!extra?.name || (extra.assetTransferMethod ?? 'eip3009') !== 'eip3009') {
        return 'x402: the offer is of a kind that is not paid';
      }
      asset = this.#assets[`${offer.network}/erc20:${offer.asset}`.toLowerCase()];
      if (!asset) return 'x402: the asset is not one that may be spent';
      minor = BigInt(offer.amount);
    }
    const host = new URL(call.request.url).hostname;
    if (minor > (perCall[asset] ?? -1n)) return `${rail}: ${minor} of ${asset} is above the cap`;
    if (hosts && !hosts.includes(host)) return `${host} is not one that may be paid`;
    if (this.#isOver(host, asset, minor)) {
      return `${rail}: too much was spent in this hour, or on this host`;
    }
    const cost = { rail, asset, minor: String(minor) };
    if (rail === 'l402') {
      const { uses, expiresAt } = macaroonTerms(offer.token);
      const proof = { token: offer.token, invoice: offer.invoice };
      // `Authorization` is taken where there is a token.
      const isTaken = call.request.headers.has('authorization');
      return { ...cost, id: digest(offer.invoice), expiresAt, uses, inMeta: inMeta || isTaken, proof };
    }
    const window = Math.min(Number(offer.accepted.maxTimeoutSeconds), WINDOW_MAX_S);
    const expiresAt = (Math.floor(Date.now() / 1000) + window) * 1000;
    return { ...cost, id: randomBytes(32).toString('hex'), expiresAt, uses: 1, inMeta, proof: {} };
  }

  async #sign(offer: Json, entry: Credential): Promise<Json> {
    const { accepted, network, asset, resource, extensions } = offer;
    const account = this.#options.account!;
    const { name, version } = accepted.extra;
    const message = {
      from: account.address, to: accepted.payTo, value: BigInt(entry.minor),
      validAfter: 0n, validBefore: BigInt(entry.expiresAt / 1000), nonce: `0x${entry.id}` as const,
    };
    const domain = { name, version, chainId: Number(network.split(':')[1]), verifyingContract: asset };
    const signature = await account.signTypedData({
      domain, types: TRANSFER, primaryType: 'TransferWithAuthorization', message,
    });
    const authorization = Object.fromEntries(Object.entries(message).map(([k, v]) => [k, String(v)]));
    return { x402Version: 2, resource, accepted, payload: { signature, authorization }, extensions };
  }

  // What is spent.

  #isOver(host: string, asset: string, minor: bigint): boolean {
    const { perHour, perHostDay } = this.#options;
    const windows = [[perHour, HOUR_MS, undefined], [perHostDay, DAY_MS, host]] as const;
    return windows.some(([ceiling, window, only]) => {
      if (!ceiling) return false;
      const past = [...this.#spent.values()].filter((line) =>
        line.asset === asset && line.outcome !== 'not_charged' &&
        line.at > Date.now() - window && (!only || line.host === only));
      const sum = past.reduce((total, line) => total + BigInt(line.minor), minor);
      return sum > (ceiling[asset] ?? -1n);
    });
  }

  /** Writes down how a payment stands: a line of the form of `countersign connect`. */
  #note(call: Call, entry: Credential, outcome: string, receipt?: string): void {
    if (entry.rail === 'pow') return;
    const { rail, asset, minor, id } = entry;
    const host = new URL(call.request.url).hostname;
    const line = { at: Date.now(), id, host, tool: call.tool, rail, asset, minor, micros: null, outcome, receipt };
    if (this.#options.state) {
      const file = openSync(join(this.#options.state, 'spend.jsonl'), 'a', 0o600);
      appendFileSync(file, `${JSON.stringify(line)}\n`);
      fsyncSync(file);
      closeSync(file);
    }
    this.#count(line);
  }

  /** A later step replaces an earlier one, but not the moment of the payment. */
  #count(line: Json): void {
    BigInt(line.minor);
    this.#spent.set(line.id, { ...line, at: this.#spent.get(line.id)?.at ?? line.at });
  }

  // What is kept.

  #load(state: string): void {
    mkdirSync(state, { recursive: true, mode: 0o700 });
    const read = (name: string) => {
      const file = join(state, name);
      return existsSync(file) ? readFileSync(file, 'utf8') : '';
    };
    this.#kept = new Map(Object.entries(JSON.parse(read('credentials.json') || '{}')));
    for (const line of read('spend.jsonl').split('\n')) {
      try {
        this.#count(JSON.parse(line));
      } catch {
        // Cut off, so it did not happen.
      }
    }
  }

  #save(): void {
    if (!this.#options.state) return;
    const beside = join(this.#options.state, `credentials.new-${process.pid}`);
    const file = openSync(beside, 'w', 0o600);
    writeSync(file, JSON.stringify(Object.fromEntries(this.#kept)));
    fsyncSync(file);
    closeSync(file);
    renameSync(beside, join(this.#options.state, 'credentials.json'));
  }

  /** The credential for a call; one that pays for a single call is held by one at a time. */
  #take(call: Call): [string, Credential] | undefined {
    for (const key of [call.key, call.scope]) {
      const entry = this.#kept.get(key);
      if (!entry || entry.expiresAt <= Date.now() || this.#taken.has(entry.id)) continue;
      if (entry.uses === 1) this.#taken.add(entry.id);
      return [key, { ...entry, earlier: true }];
    }
    return undefined;
  }

  /** On disk, if there is one, when this returns. */
  #keep(key: string, entry: Credential): void {
    for (const [other, kept] of this.#kept) {
      if (kept.expiresAt <= Date.now()) this.#kept.delete(other);
    }
    this.#kept.set(key, { ...entry, earlier: undefined });
    if (entry.uses === 1) this.#taken.add(entry.id);
    this.#save();
  }

  /** Drops a credential; where it was used, only with its last use. */
  #forget(key: string, entry: Credential, isUsed = false): void {
    this.#taken.delete(entry.id);
    const kept = this.#kept.get(key);
    if (kept?.id !== entry.id) return;
    if (isUsed && kept.uses !== 1) kept.uses &&= kept.uses - 1;
    else this.#kept.delete(key);
    this.#save();
  }

  #say(text: string): void {
    this.#options.say?.(text);
  }
}

// Reading and writing.

function readCall(request: Request, text: string): Call | undefined {
  let message: Json;
  try {
    message = JSON.parse(text);
  } catch {
    return undefined;
  }
  const tool = message?.params?.name;
  if (message?.method !== 'tools/call' || message.id === undefined || typeof tool !== 'string') {
    return undefined;
  }
  const isExact = JSON.stringify(message) === text;
  const caller = principal(request.headers.get('authorization'));
  const scope = digest(JSON.stringify([request.url, tool, caller]));
  const args = isExact ? canonical(message.params.arguments ?? {}) : text;
  return { request, text, message, isExact, tool, scope, key: digest(scope + args) };
}

/** Whose credentials these are: what a JWT says, unverified, or the digest of the token. */
function principal(authorization: string | null): string {
  if (!authorization) return 'anonymous';
  try {
    const { iss, sub, client_id, azp } = JSON.parse(decoded(authorization.split('.')[1] ?? ''));
    if (iss && sub) return JSON.stringify([iss, sub, client_id ?? azp]);
  } catch {
    // No JWT.
  }
  return digest(authorization);
}

function canonical(value: any): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const members = Object.keys(value).sort().map((k) => `${JSON.stringify(k)}:${canonical(value[k])}`);
  return `{${members.join()}}`;
}

/** What is sent again: the same request. */
function sent(call: Call, headers: Headers, body: string): RequestInit {
  const { signal, redirect } = call.request;
  return { method: 'POST', headers, body, signal, redirect };
}

/** The request with its payment, where the challenge was. */
function paid(call: Call, { rail, proof, inMeta }: Credential): RequestInit {
  const headers = new Headers(call.request.headers);
  headers.delete('content-length');
  const credential = `${proof.token}:${proof.preimage}`;
  if (inMeta && call.isExact) {
    const [name, value] = {
      x402: ['x402/payment', proof],
      l402: ['ai.bolthub/payment', { scheme: 'l402', proof: credential }],
      pow: ['countersign/pow', proof],
    }[rail] as [string, Json];
    const { params } = call.message;
    const _meta = { ...params._meta, [name]: value };
    return sent(call, headers, JSON.stringify({ ...call.message, params: { ...params, _meta } }));
  }
  const token = /^bearer +(\S+)$/i.exec(headers.get('authorization') ?? '')?.[1];
  if (rail === 'x402') {
    headers.set('payment-signature', Buffer.from(JSON.stringify(proof)).toString('base64'));
  } else if (rail === 'pow') {
    headers.set('pow-solution', `${proof.nonce}:${proof.solution}`);
  } else if (token) {
    headers.delete('authorization');
    headers.set('x-mcp-auth-composite', `Identity ${token}, Payment ${credential}`);
  } else {
    headers.set('authorization', `L402 ${credential}`);
  }
  return sent(call, headers, call.text);
}

async function readAnswer(response: Response): Promise<Answer> {
  if (response.headers.get('content-type')?.startsWith('text/event-stream')) {
    return { kind: 'stream', offers: [], problem: {} };
  }
  return judged(await response.clone().text(), response.status, response.headers);
}

/** What a body says about money. */
function judged(text: string, status: number, headers: Headers): Answer {
  let message: Json = {};
  try {
    message = Object(JSON.parse(text));
  } catch {
    // HTTP's own.
  }
  const { result, error } = message;
  const meta = result?._meta ?? {};
  const kind = result?.resultType ?? 'complete';
  if (!['complete', 'payment_required'].includes(kind)) return { kind: 'input', offers: [], problem: {} };
  let problem: Json = {};
  if (result?.isError) {
    problem = meta['countersign/refusal'] ?? {};
  } else if (error) {
    problem = error.data?.['countersign/refusal'] ?? (error.data?.code ? error.data : {});
    const [next] = error.data?.elicitations ?? [];
    if (next) problem = { code: 'CNS', title: error.message, next };
  } else if (!result && message.code) {
    problem = message;
  }
  const offers = offersOf(status, headers, message, meta);
  if (offers.length > 0) return { kind: 'asked', offers, problem };
  if (problem.code || status < 200 || status >= 400) return { kind: 'refused', offers, problem };
  if (!result) return { kind: 'failed', offers, problem: {} };
  return { kind: 'done', offers, problem: { receipt: receiptCall(meta['countersign/receipt']) } };
}

/** Work first, then x402, then L402. Two x402 challenges that differ are none. */
function offersOf(status: number, headers: Headers, message: Json, meta: Json): Json[] {
  const x402: [Json, boolean][] = [];
  const l402: Json[] = [];
  const work: Json[] = [];
  if (status === 402) {
    const required = headers.get('payment-required');
    if (required) x402.push([JSON.parse(decoded(required)), false]);
    const shown = headers.get('www-authenticate') ?? '';
    const found = /L402 macaroon="([^"]+)", invoice="([^"]+)"/.exec(shown);
    if (found) l402.push({ token: found[1], invoice: found[2], inMeta: false });
    if (message.pow) work.push({ ...message.pow, inMeta: false });
  }
  if (message.result?.isError || message.result?.resultType === 'payment_required') {
    const { structuredContent, paymentRequired } = message.result;
    for (const place of [structuredContent, paymentRequired, meta['x402/error']]) {
      if (Array.isArray(place?.accepts)) x402.push([place, true]);
    }
    for (const offer of meta['ai.bolthub/payment']?.offers ?? []) {
      if (offer.scheme !== 'l402' || (offer.asset ?? 'sat') !== 'sat') continue;
      l402.push({ ...offer, inMeta: true });
    }
    if (meta['countersign/pow']) work.push({ ...meta['countersign/pow'], inMeta: true });
  }
  const offers = work.slice(0, 1).filter(({ algorithm }) => algorithm === 'SHA-256')
    .map((offer) => ({ ...offer, rail: 'pow' }) as Json);
  const [first] = x402;
  const isOne = x402.every(([{ accepts }]) => canonical(accepts) === canonical(first![0].accepts));
  for (const accepted of first && isOne ? first[0].accepts : []) {
    if (accepted.scheme !== 'exact' || !accepted.network.startsWith('eip155:')) continue;
    const [{ resource, extensions }, inMeta] = first!;
    const { network, asset, amount } = accepted;
    offers.push({ rail: 'x402', network, asset, amount, accepted, resource, extensions, inMeta });
  }
  return [...offers, ...l402.map((offer) => ({ ...offer, rail: 'l402' }))];
}

/** Where a person can approve the call: a page over https, or of this machine. */
function pageOf({ kind, problem }: Answer): string | undefined {
  const { code = '', next } = problem;
  if (kind !== 'refused' || !code.startsWith('CNS') || DENIED.includes(code)) return undefined;
  if (!next?.url || !URL.canParse(next.url)) return undefined;
  const { protocol, hostname } = new URL(next.url);
  const isHere = protocol === 'http:' && ['127.0.0.1', '[::1]', 'localhost'].includes(hostname);
  return protocol === 'https:' || isHere ? next.url : undefined;
}

/** The same response; what its answer says, or that it was lost, is told of, once. */
function watched(response: Response, ended: (text: string) => void, lost: () => void): Response {
  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  let isOver = false;
  const over = (tell: () => void) => {
    if (!isOver) tell();
    isOver = true;
  };
  // Whoever has the answer may leave before the stream ends.
  const see = (text: string) => {
    const events = (rest + text).split(/\r?\n\r?\n/);
    rest = events.pop()!;
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith('data:'));
      const data = lines.map((line) => line.slice(5)).join('');
      if (/"(result|error)"/.test(data)) over(() => ended(data));
    }
  };
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { value, done } = await reader.read();
        see(done ? '\n\n' : decoder.decode(value, { stream: true }));
        if (!done) return controller.enqueue(value);
        over(lost);
        return controller.close();
      } catch (error) {
        over(lost);
        return controller.error(error);
      }
    },
    cancel(reason) {
      over(lost);
      return reader.cancel(reason);
    },
  });
  const { status, statusText, headers, url } = response;
  return Object.defineProperty(new Response(body, { status, statusText, headers }), 'url', { value: url });
}

/** The amount of a BOLT11 invoice. The wallet checks the rest of it. */
function invoiceMsat(invoice: string): bigint | undefined {
  const text = invoice.toLowerCase();
  const found = /^ln[a-z]+?(\d+)([munp]?)$/.exec(text.slice(0, text.lastIndexOf('1')));
  if (!found) return undefined;
  const pico = { '': 10n ** 12n, m: 10n ** 9n, u: 10n ** 6n, n: 1000n, p: 1n }[found[2]!]! * BigInt(found[1]!);
  return pico % 10n === 0n ? pico / 10n : undefined;
}

/** How many calls an L402 macaroon pays for, and until when, as its caveats say. */
function macaroonTerms(token: string): { uses: number | null; expiresAt: number } {
  const raw = Buffer.from(token, 'base64').toString('latin1');
  let uses: number | null = null;
  let expiresAt = Infinity;
  for (const [, key, value] of raw.matchAll(/([a-z_]+) ?= ?(\w+)/g) as Iterable<string[]>) {
    const number = Number(value);
    if (key === 'call') uses = 1;
    if (key === 'n_uses' && number >= 0) uses = Math.min(uses ?? Infinity, number);
    if (/^(expires(_at)?|exp|expiry)$|valid_until$/.test(key!) && number >= 0) {
      // Seconds until the year 5138; milliseconds since 1973.
      expiresAt = Math.min(expiresAt, number < 1e11 ? number * 1000 : number);
    }
  }
  return { uses, expiresAt: expiresAt === Infinity ? Date.now() + DAY_MS : expiresAt };
}

/** The call that a receipt is for, unverified: for the log. */
function receiptCall(token: unknown): string | undefined {
  try {
    return JSON.parse(decoded(String(token).split('.')[1]!)).call;
  } catch {
    return undefined;
  }
}

/** A text after which the hash of the nonce is at most the target. Others run meanwhile. */
async function solve(nonce: string, target: string, until: number): Promise<string | undefined> {
  const start = createHash('sha256').update(nonce);
  for (let n = 0; ; n++) {
    if (n % 8192 === 0) {
      if (Date.now() > until) return undefined;
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (start.copy().update(String(n)).digest('hex') <= target) return String(n);
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const decoded = (text: string) => Buffer.from(text, 'base64').toString('utf8');
const digest = (text: string) => createHash('sha256').update(text).digest('hex');
