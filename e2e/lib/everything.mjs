// The reference MCP server with every feature (npm @modelcontextprotocol/server-everything), over
// streamable HTTP, as an upstream for the gateway. Legacy era, with sessions.

import { fileURLToPath } from 'node:url';

import { freePort, start, until } from './process.mjs';

const program = fileURLToPath(
  new URL('../node_modules/@modelcontextprotocol/server-everything/dist/index.js', import.meta.url),
);
const loopbackOnly = fileURLToPath(new URL('./loopback-only.cjs', import.meta.url));

/** Command and arguments of the same server over stdio, for a stdio upstream. */
export const everythingStdio = { command: process.execPath, args: [program, 'stdio'] };

/** @returns {url, port, output(), stop(), kill9()}; `url` ends in /mcp. */
export async function startEverything({ port } = {}) {
  port ??= await freePort();
  const server = start(process.execPath, ['--require', loopbackOnly, program, 'streamableHttp'], {
    env: { PORT: String(port) },
  });
  const url = `http://127.0.0.1:${port}/mcp`;
  try {
    // Without a session it answers 400: that it answers is enough.
    await until('server-everything answers', async () => (await fetch(url)).status === 400, {
      part: server,
    });
  } catch (error) {
    await server.stop();
    throw error;
  }
  return { url, port, output: server.output, stop: server.stop, kill9: server.kill9 };
}
