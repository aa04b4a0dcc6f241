// What reaches an upstream: a transparent proxy that records, and a small MCP server of our own
// whose bytes a test decides.

import { createServer, request as httpRequest } from 'node:http';

import { freePort } from './process.mjs';

/**
 * A proxy on loopback before `target()` (an address, asked for each request), passing everything
 * through as it comes.
 * @returns {url, seen, calls(tool), stop()}; `seen` grows by {method, path, headers, rawHeaders,
 * body, message, status} for each request, `message` being the body as JSON; `calls` counts each
 * tools/call that the server did not turn away.
 */
export async function startTap(target) {
  const seen = [];
  const server = createServer(async (request, response) => {
    const body = await readBody(request);
    const entry = exchange(request, body);
    seen.push(entry);
    const address = new URL(target());
    const onward = httpRequest(
      {
        host: address.hostname,
        port: address.port,
        path: address.pathname,
        method: request.method,
        headers: { ...request.headers, host: address.host },
        agent: false,
      },
      (answer) => {
        entry.status = answer.statusCode;
        response.writeHead(answer.statusCode, answer.headers);
        response.flushHeaders();
        answer.pipe(response);
        answer.on('error', () => response.destroy());
      },
    );
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    onward.end(body);
  });
  return { ...(await listen(server)), ...observations(seen) };
}

const EMPTY = () => '{"content":[]}';

/**
 * A stateless MCP server that speaks both eras. `tools` is the array that `tools/list` answers.
 * `respond(answer)` changes what `tools/call` answers: `answer(message)` gives the result as JSON
 * text, or {error} with an error as JSON text, or a promise of either.
 */
export async function startOwnServer({ tools = [], answer = EMPTY } = {}) {
  const seen = [];
  let current = answer;
  const server = createServer(async (request, response) => {
    const body = await readBody(request);
    const entry = exchange(request, body);
    seen.push(entry);
    const { message } = entry;
    if (request.method !== 'POST') return response.writeHead(405).end();
    if (message?.id === undefined) return response.writeHead(202).end();
    const isModern = 'io.modelcontextprotocol/protocolVersion' in (message.params?._meta ?? {});
    const result = await resultOf(message, { tools, answer: current, isModern });
    const id = /"id":("(?:[^"\\]|\\.)*"|-?\d+)/.exec(body)[1];
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(`{"jsonrpc":"2.0","id":${id},${result}}`);
  });
  return {
    ...(await listen(server)),
    ...observations(seen),
    respond: (next = answer) => (current = next),
  };
}

async function resultOf(message, { tools, answer, isModern }) {
  const serverInfo = { name: 'own', version: '1.0.0' };
  const capabilities = { tools: {} };
  const complete = isModern ? { resultType: 'complete' } : {};
  const cached = isModern ? { ttlMs: 1000, cacheScope: 'public' } : {};
  switch (message.method) {
    case 'initialize': {
      const { protocolVersion } = message.params;
      return `"result":${JSON.stringify({ protocolVersion, capabilities, serverInfo })}`;
    }
    case 'server/discover': {
      const supportedVersions = ['2026-07-28'];
      const result = { ...complete, ...cached, supportedVersions, capabilities, serverInfo };
      return `"result":${JSON.stringify(result)}`;
    }
    case 'tools/list':
      return `"result":${JSON.stringify({ ...complete, ...cached, tools })}`;
    case 'tools/call': {
      const answered = await answer(message);
      return answered.error ? `"error":${answered.error}` : `"result":${answered}`;
    }
    default:
      return '"error":{"code":-32601,"message":"no such method"}';
  }
}

function observations(seen) {
  const calls = (tool) =>
    seen.filter(
      ({ message, status }) =>
        message?.method === 'tools/call' &&
        (!tool || message.params.name === tool) &&
        !(status >= 400),
    ).length;
  return { seen, calls };
}

function exchange(request, body) {
  let message;
  try {
    message = JSON.parse(body);
  } catch {
    message = undefined;
  }
  const { method, url: path, headers, rawHeaders } = request;
  return { method, path, headers, rawHeaders, body, message };
}

async function readBody(request) {
  let body = '';
  for await (const part of request.setEncoding('utf8')) body += part;
  return body;
}

async function listen(server) {
  const port = await freePort();
  await new Promise((resolve, reject) => {
    server.once('error', reject).listen(port, '127.0.0.1', resolve);
  });
  return {
    port,
    url: `http://127.0.0.1:${port}/mcp`,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
