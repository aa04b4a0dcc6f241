// Stock MCP clients, connected: the legacy SDK, the modern one, and Cloudflare's paying wrapper.

import * as modern from '@modelcontextprotocol/client';
import { Client as LegacyClient } from '@modelcontextprotocol/sdk/client/index.js';
import {
  StreamableHTTPClientTransport as LegacyTransport,
} from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { privateKeyToAccount } from 'viem/accounts';

import { NETWORK } from './chain.mjs';
import { bearer } from './wire.mjs';

const identity = { name: 'countersign-e2e', version: '1.0.0' };

/**
 * npm @modelcontextprotocol/sdk: `initialize`, sessions. `token` becomes the bearer header;
 * `headers` and `fetch` are for everything else.
 */
export async function legacyClient(url, { token, headers, fetch, capabilities = {} } = {}) {
  const client = new LegacyClient(identity, { capabilities });
  const options = transportOptions({ token, headers, fetch });
  await client.connect(new LegacyTransport(new URL(url), options));
  return client;
}

/**
 * npm @modelcontextprotocol/client. `mode` is its version negotiation: a pinned modern revision by
 * default, 'auto' to probe and fall back, 'legacy' for the old era.
 */
export async function modernClient(
  url,
  { token, headers, fetch, capabilities = {}, mode = { pin: '2026-07-28' } } = {},
) {
  const client = new modern.Client(identity, { capabilities, versionNegotiation: { mode } });
  const options = transportOptions({ token, headers, fetch });
  await client.connect(new modern.StreamableHTTPClientTransport(new URL(url), options));
  return client;
}

/**
 * The wrapper of npm `agents` around a connected client of either generation. Its callTool takes
 * (confirm | null, params); `confirm` sees the offers and says yes or no.
 */
export async function cloudflareClient(client, { key, maxPaymentValue } = {}) {
  // Loaded here, so that nobody else depends on its import graph.
  const { withX402Client } = await import('agents/x402');
  const account = privateKeyToAccount(key);
  return withX402Client(client, {
    network: NETWORK,
    account,
    ...(maxPaymentValue === undefined ? {} : { maxPaymentValue }),
  });
}

function transportOptions({ token, headers = {}, fetch }) {
  return {
    requestInit: { headers: { ...bearer(token), ...headers } },
    ...(fetch ? { fetch } : {}),
  };
}
