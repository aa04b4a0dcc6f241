// A server of the official Python SDK as an upstream. Legacy era, with sessions; to a session that
// it does not know, and to none, it answers with an error of its own id, `server-error`.

import { fileURLToPath } from 'node:url';

import { freePort, start, until } from './process.mjs';

const program = fileURLToPath(new URL('../py/server.py', import.meta.url));
const python = fileURLToPath(new URL('../.venv/bin/python', import.meta.url));

/** @returns {url, port, output(), stop(), kill9()}; `url` ends in /mcp. */
export async function startPythonServer({ port } = {}) {
  port ??= await freePort();
  const server = start(python, [program, String(port)]);
  const url = `http://127.0.0.1:${port}/mcp`;
  const answers = async () => (await fetch(url)).status < 500;
  try {
    await until('the Python server answers', answers, { part: server });
  } catch (error) {
    await server.stop();
    throw error;
  }
  return { url, port, output: server.output, stop: server.stop, kill9: server.kill9 };
}
