// PyPI `agent-security-harness`: its attacks on L402 (`agent-security test l402`) against a gateway.
//
// It attacks a paid HTTP API under paths of its own, by GET. The stand-in here turns each such
// request into a `tools/call` of the gateway, and passes on its headers, its status and its body as
// they are: what is judged is the gateway.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { MODERN_META, modernHeaders, startBefore, startParts, unbalanced } from './lib/rig.mjs';

const SAME_INVOICE =
  'It wants an invoice for each request. Whoever asks again for the very same unpaid call is shown the ' +
  'invoice that waits for payment: a flood of challenges makes no flood of invoices, and the open quotes ' +
  'of a caller are bounded. Once it is paid, the next one is new (l402.test.mjs).';
/** Findings that are none, and why. */
const FALSE_FINDINGS = {
  'L4-013': SAME_INVOICE,
  'L4-014': SAME_INVOICE,
  'L4-030':
    'One of its five headers has a line break, which its own HTTP client refuses to send; that it takes ' +
    'for a fault of the server. The other four are handled. Raw line breaks: badinput.test.mjs.',
};
/** A finding that comes by chance: it looks for `lnd` in a body with a random macaroon and invoice. */
const isChance = ({ test_id, details }) =>
  test_id === 'L4-033' && /^Leaks detected: (\w+: 'lnd'(, )?)+$/.test(details);

const anonymous = { identity: 'anonymous' };
const servers = { open: { tools: { get_forecast: { price: '3 sat', ...anonymous } } } };

let parts;
let gateway;
let api;
before(async () => {
  parts = await startParts();
  gateway = await startBefore(parts, { servers });
  api = await startApi(gateway);
});
after(async () => {
  await api?.stop();
  await gateway?.stop();
  await parts?.stop();
});

/** A paid HTTP API in front of the gateway: the resource is the tool's argument. */
async function startApi(before) {
  const dropped = ['host', 'connection', 'content-length', 'content-type', 'transfer-encoding'];
  const server = http.createServer((request, response) => {
    const body = [];
    request.on('data', (part) => body.push(part)).on('end', () => {
      const city = `${request.url} ${Buffer.concat(body).toString('utf8')}`;
      const params = { name: 'get_forecast', arguments: { city }, _meta: MODERN_META };
      const call = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params });
      const own = { ...modernHeaders('tools/call', 'get_forecast'), 'content-length': Buffer.byteLength(call) };
      const lines = ['host', new URL(before.url).host, ...Object.entries(own).flat()];
      for (let at = 0; at < request.rawHeaders.length; at += 2) {
        const [name, value] = request.rawHeaders.slice(at, at + 2);
        if (!dropped.includes(name.toLowerCase())) lines.push(name, value);
      }
      const passed = http.request(`${before.url}/open/mcp`, { method: 'POST', headers: lines }, (answer) => {
        response.writeHead(answer.statusCode, answer.rawHeaders);
        answer.pipe(response);
      });
      passed.on('error', () => response.destroy());
      passed.end(call);
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    stop: () => new Promise((resolve) => server.close(resolve).closeAllConnections()),
  };
}

/** Runs `agent-security` as its user would; gives its report. */
async function attack(url, report) {
  const program = fileURLToPath(new URL('.venv/bin/agent-security', import.meta.url));
  const child = spawn(program, ['test', 'l402', '--url', url, '--report', report], {
    timeout: 240_000, killSignal: 'SIGKILL', cwd: gateway.dir,
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += text));
  const code = await new Promise((resolve) => child.once('close', resolve));
  assert.ok([0, 1].includes(code), `exit ${code}\n${said}`);
  return JSON.parse(readFileSync(report, 'utf8'));
}

test('agent-security test l402: every finding is none of ours', async () => {
  const [ran, earned] = [await parts.ran('get_forecast'), await parts.earnedMsat()];
  const { results, summary } = await attack(api.url, `${gateway.dir}/l402.json`);
  assert.equal(results.length, 33);
  assert.equal(summary.not_evaluated, 0, JSON.stringify(summary));
  const found = results.filter(({ passed }) => !passed);
  const unexplained = found.filter((one) => !(one.test_id in FALSE_FINDINGS) && !isChance(one));
  assert.deepEqual(unexplained, [], 'findings that nobody has explained');
  const gone = Object.keys(FALSE_FINDINGS).filter((id) => !found.some(({ test_id }) => test_id === id));
  assert.deepEqual(gone, [], 'explained, and not found any more');
  const details = (id) => found.find(({ test_id }) => test_id === id).details;
  assert.match(details('L4-013'), /20 got 402, .*1\/20 unique/);
  assert.match(details('L4-014'), /1\/10 unique/);
  assert.match(details('L4-030'), /^4\/5 /);
  // It pays nothing: so nothing ran, whatever it says.
  assert.deepEqual([await parts.ran('get_forecast'), await parts.earnedMsat()], [ran, earned]);
  assert.deepEqual(await unbalanced(gateway), []);
  assert.ok(gateway.isRunning());
});
