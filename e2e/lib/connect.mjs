// `countersign connect` as a desktop client runs it: a child process that speaks MCP over stdio.

import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import * as modern from '@modelcontextprotocol/client';
import { StdioClientTransport as ModernStdio } from '@modelcontextprotocol/client/stdio';
import { Client as LegacyClient } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport as LegacyStdio } from '@modelcontextprotocol/sdk/client/stdio.js';

import { gatewayBinary } from './gateway.mjs';

const identity = { name: 'countersign-e2e', version: '1.0.0' };

/** A home of its own for one user of `connect`: its state, its wallet file. */
export class Home {
  constructor() {
    this.dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-home-'));
  }

  /** Writes a wallet file that only its owner can open; gives its path. */
  wallet(wallets, name = 'wallet.json') {
    const file = path.join(this.dir, name);
    writeFileSync(file, JSON.stringify({ wallets }));
    chmodSync(file, 0o600);
    return file;
  }

  /** How `connect` is started with these arguments. */
  command(url, args = [], env = {}) {
    return {
      command: gatewayBinary,
      args: ['connect', url, '--no-browser', ...args],
      env: { PATH: process.env.PATH, HOME: this.dir, XDG_STATE_HOME: path.join(this.dir, 'state'), ...env },
    };
  }

  /** The lines of the spend log. */
  spent() {
    const file = path.join(this.dir, 'state', 'countersign', 'spend.jsonl');
    if (!existsSync(file)) return [];
    return readFileSync(file, 'utf8').trim().split('\n').filter(Boolean).map((line) => JSON.parse(line));
  }

  stop() {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/**
 * npm @modelcontextprotocol/sdk over stdio: `initialize`. `said()` is what went to stderr, and
 * `hear` gets it as it comes.
 */
export async function legacyStdio(how, { capabilities = {}, hear } = {}) {
  const client = new LegacyClient(identity, { capabilities });
  return connected(client, new LegacyStdio({ ...how, stderr: 'pipe' }), hear);
}

/** npm @modelcontextprotocol/client over stdio: 2026-07-28. */
export async function modernStdio(how, { capabilities = {}, mode = { pin: '2026-07-28' }, hear } = {}) {
  const client = new modern.Client(identity, { capabilities, versionNegotiation: { mode } });
  return connected(client, new ModernStdio({ ...how, stderr: 'pipe' }), hear);
}

async function connected(client, transport, hear) {
  let said = '';
  transport.stderr.on('data', (text) => {
    said += text;
    hear?.(String(text));
  });
  await client.connect(transport);
  return Object.assign(client, { said: () => said, pid: transport.pid });
}
