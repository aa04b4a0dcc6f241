// Bad input of every kind: what is sent to the gateway, told to its admin API, written into its
// configuration or typed at its command line. Each is refused with a code and what to do, nothing
// is charged, nothing runs, nothing panics, and the next good call is served.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';

import { gatewayBinary } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { freePort, start } from './lib/process.mjs';
import {
  MCP_ACCEPT, MODERN_META, admin, answerOf, buy, callRaw, callTool, configBefore, l402,
  modernHeaders, postRaw, startBefore, startParts, unbalanced, x402Challenge,
} from './lib/rig.mjs';
import { bearer } from './lib/wire.mjs';
import { payer, signTransfer } from './lib/x402http.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_forecast: { price: ['0.01 USDC', '3 sat'], ...anonymous },
      get_report: { price: ['0.01 USDC', '3 sat'], ...anonymous },
      status: { price: 'free', ...anonymous },
    },
  },
  weather: { tools: { get_forecast: { price: '3 sat', consent: 'none' } } },
};

let parts;
let issuer;
let gateway;
let token;
let home;

before(async () => {
  home = mkdtempSync(path.join(os.tmpdir(), 'countersign-bad-'));
  parts = await startParts();
  const port = await freePort();
  const weather = `http://127.0.0.1:${port}/weather/mcp`;
  issuer = await startIssuer({ resources: [weather] });
  gateway = await startBefore(parts, {
    servers: {
      ...servers,
      // Its name has only addresses that it may not have.
      closed: {
        upstream: parts.server.replace('127.0.0.1', 'localhost'), allow_private_network: false,
        tools: { delete_report: { price: 'free', intent: 'read', ...anonymous } },
      },
    },
    issuers: [issuer.url],
    limits: { open_quotes_per_principal: 4096, header_timeout: '2s', body_timeout: '2s', headers: '16 KiB' },
  }, { port });
  token = await issuer.clientCredentials(weather);
});
after(async () => {
  await gateway?.stop();
  await issuer?.stop();
  await parts?.stop();
  if (home) rmSync(home, { recursive: true, force: true });
});

const MESSAGE = {
  jsonrpc: '2.0',
  id: 1,
  method: 'tools/call',
  params: { name: 'get_forecast', arguments: { city: 'Oslo' }, _meta: MODERN_META },
};
const HEADERS = modernHeaders('tools/call', 'get_forecast');
const url = (at = 'open') => `${gateway.url}/${at}/mcp`;
const send = async (body, headers = {}, at = 'open') =>
  answerOf(await fetch(url(at), { method: 'POST', headers: { ...HEADERS, ...headers }, body }));
const message = (changes) => JSON.stringify({ ...MESSAGE, ...changes });
const params = (changes) => message({ params: { ...MESSAGE.params, ...changes } });

/** Nothing ran and no money moved in `act`; and the gateway serves afterwards. */
async function harmless(act) {
  const stand = async () => ({
    ran: [await parts.ran('get_forecast'), await parts.ran('get_report')],
    settled: await parts.settled(),
    earned: await parts.earnedMsat(),
  });
  const earlier = await stand();
  await act();
  assert.deepEqual(await stand(), earlier, 'something ran, or money moved');
  const good = await callTool(gateway, 'open', 'status', {});
  assert.equal(good.status, 200, `it no longer serves: ${good.text}`);
}

function isRefused(answer, status, code, what = '') {
  assert.deepEqual([what, answer.status, answer.code], [what, status, code], answer.text);
  assert.equal(answer.problem.charged, 'no', answer.text);
  assert.ok(answer.problem.next.action.length > 5, answer.text);
  assert.match(answer.problem.type, /^urn:countersign:refusal:/);
}

afterEach(() => {
  assert.ok(gateway.isRunning(), `the gateway is gone\n${gateway.stderr()}`);
  assert.ok(!gateway.stderr().includes('panicked'), gateway.stderr());
});

const nested = (depth, open = '[', close = ']') => open.repeat(depth) + close.repeat(depth);
const withArguments = (text) =>
  params({ arguments: 'HERE' }).replace('"HERE"', text);

describe('bodies', () => {
  const bad = {
    'nothing': ['', 400, 'REQ-001'],
    'white space': [' \n ', 400, 'REQ-001'],
    'no JSON': ['city=Oslo', 400, 'REQ-001'],
    'half of a message': [message({}).slice(0, -7), 400, 'REQ-001'],
    'two messages': [message({}) + message({}), 400, 'REQ-001'],
    'a byte order mark': [`\ufeff${message({})}`, 400, 'REQ-001'],
    'comments': [`/* */${message({})}`, 400, 'REQ-001'],
    'a comma too many': [`${message({}).slice(0, -1)},}`, 400, 'REQ-001'],
    'single quotes': [message({}).replaceAll('"', "'"), 400, 'REQ-001'],
    'NaN': [withArguments('{"n":NaN}'), 400, 'REQ-001'],
    'Infinity': [withArguments('{"n":1e400}'), 400, 'REQ-001'],
    'leading zeros': [withArguments('{"n":007}'), 400, 'REQ-001'],
    'half of a surrogate pair': [withArguments('{"city":"\\ud800"}'), 400, 'REQ-001'],
    'a control character': [withArguments('{"city":"\u0001"}'), 400, 'REQ-001'],
    'bytes that are no UTF-8': [Buffer.concat([Buffer.from(message({}).slice(0, -1)), Buffer.from(',"x":"\xff"}', 'latin1')]), 400, 'REQ-001'],
    'a batch': [`[${message({})}]`, 400, 'REQ-005'],
    'an empty batch': ['[]', 400, 'REQ-005'],
    'a batch of batches': [nested(9), 400, 'REQ-005'],
    'text': ['"tools/call"', 400, 'REQ-006'],
    'null': ['null', 400, 'REQ-006'],
    'a number': ['7', 400, 'REQ-006'],
    'an empty object': ['{}', 400, 'REQ-006'],
    'another version': [message({ jsonrpc: '1.0' }), 400, 'REQ-006'],
    'a version that is a number': [message({ jsonrpc: 2.0 }), 400, 'REQ-006'],
    'no id': [message({ id: undefined }), null, null],
    'a null id': [message({ id: null }), 400, 'REQ-006'],
    'a fractional id': [message({ id: 1.5 }), 400, 'REQ-006'],
    'an id that is an object': [message({ id: {} }), 400, 'REQ-006'],
    'a method that is a number': [message({ method: 7 }), 400, 'REQ-006'],
    'a method and a result': [message({ result: {} }), 400, 'REQ-006'],
    'no params': [message({ params: undefined }), 400, 'REQ-006'],
    'params that are a list': [message({ params: ['get_forecast'] }), 400, 'REQ-006'],
    'a member that nobody knows': [message({ extra: 1 }), 400, 'REQ-006'],
    'a method in other case': [message({ Method: 'tools/list' }), 400, 'REQ-006'],
    'a method twice': [message({}).replace('"method"', '"method":"tools/list","method"'), 400, 'REQ-004'],
    'a method twice, escaped': [message({}).replace('"method"', '"m\\u0065thod":"tools/list","method"'), 400, 'REQ-004'],
    'a tool twice': [message({}).replace('"name"', '"name":"status","name"'), 400, 'REQ-004'],
    'an argument twice': [withArguments('{"city":"Oslo","city":"Rome"}'), 400, 'REQ-004'],
    'an argument twice, deep': [withArguments('{"a":[{"b":{"c":1,"\\u0063":2}}]}'), 400, 'REQ-004'],
    'no tool': [params({ name: undefined }), 400, 'REQ-006'],
    'a tool that is a number': [params({ name: 7 }), 400, 'REQ-006'],
    'a tool without a name': [params({ name: '' }), 400, 'REQ-006'],
    'a tool in other case': [params({ Name: 'status' }), 400, 'REQ-006'],
    'arguments that are a list': [params({ arguments: ['Oslo'] }), 400, 'REQ-006'],
    'arguments that are text': [params({ arguments: '{"city":"Oslo"}' }), 400, 'REQ-006'],
    'arguments that are null': [params({ arguments: null }), 400, 'REQ-006'],
    '_meta that is a list': [params({ _meta: [] }), 400, 'REQ-006'],
    'half of the modern members': [params({ _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' } }), 400, 'REQ-016'],
    'too deep by one': [withArguments(`{"a":${nested(62)}}`), 400, 'REQ-003'],
    'very deep lists': [withArguments(`{"a":${nested(100_000)}}`), 400, 'REQ-003'],
    'very deep objects': [withArguments('{"a":'.repeat(50_000) + '1' + '}'.repeat(50_000)), 400, 'REQ-003'],
    'deep and never closed': ['['.repeat(500_000), 400, 'REQ-003'],
    'more than a body may have': [withArguments(JSON.stringify({ city: 'x'.repeat(1 << 20) })), 413, 'REQ-002'],
    'much more': ['x'.repeat(8 << 20), 413, 'REQ-002'],
  };
  test('each is refused with its code', () => harmless(async () => {
    for (const [what, [body, status, code]] of Object.entries(bad)) {
      const answer = await send(body).catch((error) => error);
      // Answered and closed while the client still wrote.
      if (answer instanceof Error && status === 413) continue;
      if (code) isRefused(answer, status, code, what);
      else assert.ok(answer.code ?? answer.status >= 400, `${what}: ${answer.status} ${answer.text}`);
    }
  }));

  test('the same in the shape that an MCP client reads', () => harmless(async () => {
    for (const [what, [body, status, code]] of Object.entries(bad)) {
      if (!code) continue;
      const answer = await send(body, MCP_ACCEPT).catch((error) => error);
      if (answer instanceof Error && status === 413) continue;
      isRefused(answer, status, code, what);
      assert.equal(answer.message.jsonrpc, '2.0', `${what}: ${answer.text}`);
      assert.ok(Number.isInteger(answer.message.error.code), what);
    }
  }));

  test('what is just within the limits is asked for payment', async () => {
    for (const body of [
      withArguments(`{"a":${nested(61)}}`),
      withArguments(JSON.stringify({ city: 'x'.repeat(900_000) })),
      withArguments('{"n":123456789012345678901234567890}'),
      message({ id: 'a"\\u0000' }),
    ]) {
      const answer = await send(body);
      isRefused(answer, 402, 'PAY-001', body.slice(0, 200));
    }
  });
});

describe('headers', () => {
  test('that disagree with the body, or are missing', () => harmless(async () => {
    for (const [what, headers, code] of [
      ['another tool', { 'mcp-name': 'status' }, 'REQ-007'],
      ['another method', { 'mcp-method': 'tools/list' }, 'REQ-007'],
      ['another version', { 'mcp-protocol-version': '2025-11-25' }, 'REQ-007'],
      ['a sentinel that lies', { 'mcp-name': '=?base64?c3RhdHVz?=' }, 'REQ-007'],
      ['a sentinel that is broken', { 'mcp-name': '=?base64?%%%?=' }, 'REQ-007'],
      ['bytes', { 'mcp-name': 'get_forecast\u00ff' }, 'REQ-007'],
      ['a parameter that no argument says', { 'mcp-param-city': 'Atlantis' }, 'REQ-007'],
    ]) {
      isRefused(await send(message({}), headers), 400, code, what);
    }
    for (const name of ['mcp-name', 'mcp-method', 'mcp-protocol-version']) {
      const lines = Object.entries(HEADERS).filter(([header]) => header !== name).flat();
      isRefused(await postRaw(url(), lines, message({})), 400, 'REQ-007', `no ${name}`);
      const twice = [...lines, name, HEADERS[name], name, HEADERS[name]];
      isRefused(await postRaw(url(), twice, message({})), 400, 'REQ-014', `${name} twice`);
    }
  }));

  test('that are not for this endpoint', () => harmless(async () => {
    for (const [what, init, status, code] of [
      ['text', { headers: { ...HEADERS, 'content-type': 'text/plain' } }, 415, 'REQ-011'],
      ['a form', { headers: { ...HEADERS, 'content-type': 'application/x-www-form-urlencoded' } }, 415, 'REQ-011'],
      ['nearly JSON', { headers: { ...HEADERS, 'content-type': 'application/jsonp' } }, 415, 'REQ-011'],
      ['a foreign origin', { headers: { ...HEADERS, origin: 'https://evil.example.com' } }, 403, 'REQ-008'],
      ['a null origin', { headers: { ...HEADERS, origin: 'null' } }, 403, 'REQ-008'],
      ['our origin with a suffix', { headers: { ...HEADERS, origin: `${gateway.url}.evil.example.com` } }, 403, 'REQ-008'],
      ['a session of nobody', { headers: { ...HEADERS, 'mcp-session-id': 'f'.repeat(32) } }, 404, 'REQ-012'],
      ['GET', { method: 'GET', headers: HEADERS, body: undefined }, 405, 'REQ-010'],
      ['PUT', { method: 'PUT', headers: HEADERS }, 405, 'REQ-010'],
      ['DELETE', { method: 'DELETE', headers: HEADERS }, 405, 'REQ-010'],
      ['OPTIONS', { method: 'OPTIONS', headers: HEADERS, body: undefined }, 405, 'REQ-010'],
    ]) {
      const answer = await fetch(url(), { method: 'POST', body: message({}), ...init });
      isRefused(await answerOf(answer), status, code, what);
    }
  }));

  test('paths that lead nowhere', () => harmless(async () => {
    for (const at of [
      '/', '/mcp', '/nowhere/mcp', '/open', '/open/mcp/', '/OPEN/mcp', '/open/MCP', '//open/mcp',
      '/open//mcp', '/%6fpen/mcp', '/open%2fmcp', '/open/mcp/../../v1/status', '/v1/status', '/admin',
      '/open/mcp%00', '/.well-known/oauth-protected-resource',
    ]) {
      const answer = await rawRequest(at, message({}));
      isRefused(answer, 404, 'REQ-009', at);
    }
  }));

  test('larger or more than is read', () => harmless(async () => {
    for (const [what, headers, code] of [
      ['one of 20 kB', { 'x-large': 'y'.repeat(20_000) }, 'REQ-018'],
      ['seventy', Object.fromEntries(Array.from({ length: 70 }, (_, n) => [`x-${n}`, 'y'])), 'REQ-018'],
      // Beyond what the HTTP library reads, it answers itself.
      ['one of 100 kB', { 'x-large': 'y'.repeat(100_000) }],
      ['two hundred', Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`x-${n}`, 'y']))],
      ['a long token', bearer(`${token}${'A'.repeat(17_000)}`)],
    ]) {
      const answer = await send(message({}), headers).catch((error) => error);
      if (code) isRefused(answer, 431, code, what);
      if (answer instanceof Error) continue; // closed while the client still wrote
      assert.equal(answer.status, 431, `${what}: ${answer.status} ${answer.text}`);
    }
  }));

  /** A path as it is, which fetch would tidy. */
  function rawRequest(target, body) {
    const lines = [
      `POST ${target} HTTP/1.1`, `host: 127.0.0.1:${gateway.port}`, 'connection: close',
      `content-length: ${Buffer.byteLength(body)}`,
      ...Object.entries(HEADERS).map(([name, value]) => `${name}: ${value}`),
    ];
    return new Promise((resolve, reject) => {
      let text = '';
      const socket = net.connect(gateway.port, '127.0.0.1', () => {
        socket.write(`${lines.join('\r\n')}\r\n\r\n${body}`);
      });
      socket.setTimeout(10_000, () => socket.destroy(new Error(`${target}: no answer`)));
      socket.on('data', (part) => (text += part)).on('error', reject);
      socket.on('close', () => {
        const [head, rest = ''] = text.split('\r\n\r\n');
        const status = Number(head.split(' ')[1]);
        if (status) answerOf(new Response(rest, { status })).then(resolve, reject);
        else reject(new Error(`${target}: closed without an answer: ${text}`));
      });
    });
  }
});

describe('credentials', () => {
  const present = (headers, lines) => (lines
    ? callRaw(gateway, 'open', 'get_forecast', { city: 'Oslo' }, lines)
    : callTool(gateway, 'open', 'get_forecast', { city: 'Oslo' }, { headers }));

  test('tokens that are none', () => harmless(async () => {
    for (const value of [
      'Bearer', 'Bearer x', 'Bearer ..', 'Bearer a.b', 'Bearer a.b.c.d.e', 'Bearer \u00ff', 'Bearer {}',
      `Bearer ${token} x`, 'Basic YTpi', 'Token x', '', 'L402x y',
    ]) {
      const answer = await callRaw(gateway, 'weather', 'get_forecast', {}, ['authorization', value]);
      isRefused(answer, 401, 'IDN-002', value);
    }
  }));

  test('macaroons that are none', () => harmless(async () => {
    const preimage = '00'.repeat(32);
    const good = await callTool(gateway, 'open', 'get_forecast', { city: 'mac' });
    const macaroon = JSON.parse(good.text).macaroon;
    const bytes = Buffer.from(macaroon, 'base64');
    for (const [what, value, status = 400, code = 'PAY-002'] of [
      ['nothing', 'L402 '],
      ['no colon', `L402 ${macaroon}`],
      ['no macaroon', `L402 :${preimage}`],
      ['no base64', `L402 %%%:${preimage}`],
      ['a macaroon of version 1', `L402 ${Buffer.from('0020location x\n').toString('base64')}:${preimage}`],
      ['a macaroon cut short', `L402 ${bytes.subarray(0, -9).toString('base64')}:${preimage}`],
      ['bytes after it', `L402 ${Buffer.concat([bytes, Buffer.from('x')]).toString('base64')}:${preimage}`],
      ['lengths that overflow', `L402 ${Buffer.from([2, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).toString('base64')}:${preimage}`],
      ['several', `L402 ${macaroon},${macaroon}:${preimage}`],
      ['a short preimage', `L402 ${macaroon}:00`],
      ['a preimage that is no hex', `L402 ${macaroon}:${'zz'.repeat(32)}`],
      ['a preimage of another', `L402 ${macaroon}:${preimage}`, 401, 'PAY-014'],
    ]) {
      isRefused(await present(undefined, ['authorization', value]), status, code, what);
    }
    for (const [what, proof] of [
      ['a list', []], ['text', 'x'], ['no scheme', { proof: `${macaroon}:${preimage}` }],
      ['another scheme', { scheme: 'x402', proof: 'x' }], ['no proof', { scheme: 'l402' }],
      ['a number', { scheme: 'l402', proof: 7 }], ['null', null],
    ]) {
      const meta = { 'ai.bolthub/payment': proof };
      const answer = await callTool(gateway, 'open', 'get_forecast', { city: 'Oslo' }, { meta });
      isRefused(answer, 400, 'PAY-002', what);
    }
  }));

  test('x402 payments that are none', () => harmless(async () => {
    const base64 = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64');
    const challenge = x402Challenge(await present({}));
    const good = await payer(`0x${'07'.repeat(32)}`).createPaymentPayload(challenge);
    const changed = (edit) => {
      const copy = structuredClone(good);
      edit(copy, copy.payload.authorization);
      return base64(copy);
    };
    for (const [what, value, codes] of [
      ['nothing', '', 'PAY-002'],
      ['no base64', '%%%', 'PAY-002'],
      ['no JSON', base64('x'), 'PAY-002'],
      ['text', base64('"x"'), 'PAY-002'],
      ['a list', base64([]), 'PAY-002'],
      ['an empty object', base64({}), 'PAY-002'],
      ['a version that is text', changed((p) => (p.x402Version = '2')), 'PAY-002'],
      ['version 1', changed((p) => (p.x402Version = 1)), 'PAY-019'],
      ['version 3', changed((p) => (p.x402Version = 3)), 'PAY-002'],
      ['no accepted', changed((p) => delete p.accepted), 'PAY-002'],
      ['no signature', changed((p) => delete p.payload.signature), 'PAY-002'],
      ['a short signature', changed((p) => (p.payload.signature = '0x00')), 'PAY-002|PAY-003'],
      ['a signature of zeros', changed((p) => (p.payload.signature = `0x${'00'.repeat(65)}`)), 'PAY-002|PAY-003'],
      ['a negative value', changed((p, a) => (a.value = '-1')), 'PAY-002'],
      ['a value of 1e4', changed((p, a) => (a.value = '1e4')), 'PAY-002'],
      ['a value with leading zeros', changed((p, a) => (a.value = '010000')), 'PAY-002'],
      ['a value in other digits', changed((p, a) => (a.value = '١٠٠٠٠')), 'PAY-002'],
      ['a value beyond 256 bits', changed((p, a) => (a.value = '9'.repeat(90))), 'PAY-002|PAY-004'],
      ['a value that is a number', changed((p, a) => (a.value = 10_000)), 'PAY-002'],
      ['a time that is none', changed((p, a) => (a.validBefore = 'tomorrow')), 'PAY-002'],
      ['a nonce of the wrong length', changed((p, a) => (a.nonce = '0x00')), 'PAY-002'],
      ['an address that is none', changed((p, a) => (a.from = '0x00')), 'PAY-002'],
      ['another scheme', changed((p) => (p.accepted.scheme = 'upto')), 'PAY-002|PAY-005'],
      ['a member beside the signed ones', changed((p) => (p.payload.extra = 1)), 'PAY-002'],
      ['a member twice', base64(JSON.stringify(good).replace('"x402Version":2', '"x402Version":2,"x402Version":2')), 'PAY-002'],
      ['very deep', base64('['.repeat(9_000)), 'PAY-002'],
    ]) {
      for (const source of ['header', '_meta']) {
        const options = source === 'header'
          ? { headers: { 'payment-signature': value } }
          : { meta: { 'x402/payment': value }, headers: {} };
        const answer = await callTool(gateway, 'open', 'get_forecast', { city: 'Oslo' }, options);
        assert.match(answer.code ?? 'none', new RegExp(`^(${codes})$`), `${what} in ${source}: ${answer.text}`);
        assert.equal(answer.problem.charged, 'no');
      }
    }
    for (const junk of [7, [], {}, null, true]) {
      const answer = await callTool(gateway, 'open', 'get_forecast', {}, { meta: { 'x402/payment': junk } });
      isRefused(answer, 400, 'PAY-002', JSON.stringify(junk));
    }
  }));

  test('two that differ, or of two kinds', () => harmless(async () => {
    const challenge = x402Challenge(await present({}));
    const sign = async (key) => {
      const payment = await payer(`0x${key.repeat(32)}`).createPaymentPayload(challenge);
      return [payment, Buffer.from(JSON.stringify(payment)).toString('base64')];
    };
    const [[one, oneText], [, otherText]] = [await sign('11'), await sign('22')];
    const args = { city: 'Oslo' };
    const differing = await callTool(gateway, 'open', 'get_forecast', args, {
      headers: { 'payment-signature': otherText }, meta: { 'x402/payment': one },
    });
    isRefused(differing, 400, 'REQ-013');
    const offer = JSON.parse((await present({})).text);
    const kinds = await callTool(gateway, 'open', 'get_forecast', args, {
      headers: {
        'payment-signature': oneText,
        authorization: `L402 ${offer.macaroon}:${'00'.repeat(32)}`,
      },
    });
    isRefused(kinds, 400, 'REQ-013');
    const twice = ['payment-signature', oneText, 'payment-signature', oneText];
    isRefused(await present(undefined, twice), 400, 'REQ-014');
  }));

  test('a payment signed for other terms', () => harmless(async () => {
    const challenge = x402Challenge(await present({}));
    const key = `0x${'33'.repeat(32)}`;
    const good = await payer(key).createPaymentPayload(challenge);
    const { payTo } = challenge.accepts[0];
    const now = Math.floor(Date.now() / 1000);
    for (const [what, terms, codes] of [
      ['too little', { to: payTo, value: 9_999 }, 'PAY-004'],
      ['too much', { to: payTo, value: 10_001 }, 'PAY-004'],
      ['nothing', { to: payTo, value: 0 }, 'PAY-004'],
      ['to somebody else', { to: `0x${'44'.repeat(20)}`, value: 10_000 }, 'PAY-005'],
      ['expired', { to: payTo, value: 10_000, validBefore: now - 5 }, 'PAY-007'],
      ['for a year', { to: payTo, value: 10_000, validBefore: now + 31_536_000 }, 'PAY-007'],
      ['not yet', { to: payTo, value: 10_000, validAfter: now + 30 }, 'PAY-007'],
    ]) {
      const payload = { ...good, payload: await signTransfer(key, terms) };
      const header = Buffer.from(JSON.stringify(payload)).toString('base64');
      const answer = await present({ 'payment-signature': header });
      isRefused(answer, 402, codes, what);
      assert.ok(answer.headers.get('payment-required'), `${what}: no fresh challenge`);
    }
  }));
});

describe('connections', () => {
  /** Writes `pieces` with pauses, and gives what came back until the other side closed. */
  const talk = (pieces, { pause_ms = 0, timeout_ms = 15_000 } = {}) => new Promise((resolve) => {
    let text = '';
    const started = Date.now();
    const socket = net.connect(gateway.port, '127.0.0.1');
    const end = (closed) => {
      socket.destroy();
      resolve({ text, closed, took_ms: Date.now() - started });
    };
    socket.setTimeout(timeout_ms, () => end(false));
    socket.on('data', (part) => (text += part)).on('error', () => end(true)).on('close', () => end(true));
    (async () => {
      for (const piece of pieces) {
        if (!socket.destroyed) socket.write(piece);
        if (pause_ms) await new Promise((wait) => setTimeout(wait, pause_ms));
      }
    })();
  });
  const head = (...lines) => [
    'POST /open/mcp HTTP/1.1', `host: 127.0.0.1:${gateway.port}`,
    ...Object.entries(HEADERS).map(([name, value]) => `${name}: ${value}`), ...lines, '', '',
  ].join('\r\n');
  const body = JSON.stringify(MESSAGE);
  const smuggled = 'POST /open/mcp HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n';

  test('that do not speak HTTP', () => harmless(async () => {
    for (const bytes of [
      'hello\r\n\r\n', '\0'.repeat(100), '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 'GET / HTTP/9.9\r\n\r\n',
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', `GET /${'x'.repeat(100_000)} HTTP/1.1\r\n\r\n`, 'POST\r\n',
    ]) {
      const { text } = await talk([bytes], { timeout_ms: 4_000 });
      assert.ok(!/^HTTP\/1.1 200/.test(text), text);
    }
  }));

  test('that frame a body in two ways', () => harmless(async () => {
    for (const lines of [
      [`content-length: ${body.length}`, 'transfer-encoding: chunked'],
      ['transfer-encoding: chunked', `content-length: ${body.length}`],
      [`content-length: ${body.length}`, 'content-length: 4'],
      ['content-length: -1'], ['content-length: 0x10'], [`content-length: +${body.length}`],
      ['transfer-encoding: chunked, identity'], ['transfer-encoding: xchunked'],
      [`content-length : ${body.length}`],
    ]) {
      const { text } = await talk([`${head(...lines)}${body}${smuggled}`], { timeout_ms: 4_000 });
      const answers = text.match(/HTTP\/1\.1 \d+/g) ?? [];
      assert.ok(answers.length <= 1, `${lines}: ${answers}`);
      assert.ok(!text.includes('HTTP/1.1 200'), text);
    }
  }));

  test('that send their header too slowly', () => harmless(async () => {
    const { closed, took_ms } = await talk(['POST /open/mcp HTTP/1.1\r\nhost: x\r\n']);
    assert.ok(closed && took_ms < 8_000, `still open after ${took_ms} ms (header_timeout: 2s)`);
  }));

  test('that send their body too slowly', () => harmless(async () => {
    const { closed, took_ms } = await talk([head(`content-length: ${body.length}`), body.slice(0, 9)]);
    assert.ok(closed && took_ms < 8_000, `still open after ${took_ms} ms (body_timeout: 2s)`);
  }));

  test('that break off in the middle', () => harmless(async () => {
    for (let n = 0; n < 20; n++) {
      const socket = net.connect(gateway.port, '127.0.0.1');
      await new Promise((resolve) => socket.once('connect', resolve));
      socket.write(head(`content-length: ${body.length}`) + body.slice(0, n * 7));
      socket.destroy();
    }
  }));
});

describe('the admin API', () => {
  const grant = () => ({
    issuer: issuer.url, subject: 'ada', agent: 'bot', server: 'open',
    tools: ['get_forecast'], intents: ['read'], per_call: '0.05 USD', expires: '1h',
  });
  const post = (path, body, more) => admin(gateway, path, { method: 'POST', body, ...more });

  test('refuses grants that are none', () => harmless(async () => {
    const taken = [];
    for (const [what, changes] of Object.entries({
      'an unknown member': { approved_by: 'me' },
      'no tools': { tools: [] },
      'an unknown tool': { tools: ['launch'] },
      'an unknown server': { server: 'nowhere' },
      'an unknown issuer': { issuer: 'https://idp.example.com' },
      'an unknown intent': { intents: ['everything'] },
      'no intents': { intents: [] },
      'a negative cap': { per_call: '-1 USD' },
      'a cap in nothing': { per_call: '1' },
      'a cap of 1e30': { per_call: '1e30 USD' },
      'a cap that is a number': { per_call: 1 },
      'a cap in other digits': { per_call: '٣ USD' },
      'a cap beyond all money': { per_call: `${'9'.repeat(60)} USD` },
      'too long a life': { expires: '365d' },
      'no life': { expires: '0s' },
      'a life that is none': { expires: 'for ever' },
      'a window that is none': { windows: ['1 USD'] },
      'an empty subject': { subject: '' },
      'a long subject': { subject: 'x'.repeat(600) },
      'a long purpose': { purpose: 'x'.repeat(2000) },
      'a tenant of nothing': { tenant: '' },
      'calls below zero': { max_calls: -1 },
      'no calls': { max_calls: 0 },
    })) {
      const { status, body } = await post('/v1/grants', { ...grant(), ...changes });
      if (status !== 422 || body.code !== 'ADM-001') taken.push(`${what}: ${status}`);
      else assert.ok(body.title && body.next.action, what);
    }
    assert.deepEqual(taken, []);
    assert.deepEqual((await admin(gateway, '/v1/grants')).body.items, []);
  }));

  test('refuses requests that are none', () => harmless(async () => {
    const call = 'call_00000000000000000000000000000000';
    for (const [what, path, options, status, code] of [
      ['another type', '/v1/grants', { raw: JSON.stringify(grant()), headers: { 'content-type': 'text/plain' } }, 415, 'REQ-011'],
      ['no JSON', '/v1/grants', { raw: 'x' }, 400, 'REQ-001'],
      ['a member twice', '/v1/grants', { raw: JSON.stringify(grant()).replace('"agent"', '"agent":"other","agent"') }, 400, 'REQ-004'],
      ['deep', '/v1/grants', { raw: nested(5000) }, 400, 'REQ-003'],
      ['large', '/v1/grants', { raw: 'x'.repeat(70_000) }, 413, 'REQ-002'],
      ['a list', '/v1/grants', { raw: '[]' }, 422, 'ADM-001'],
      ['a grant of nobody', `/v1/grants/grant_${'0'.repeat(32)}/revoke`, { raw: '{}' }, 404, 'ADM-002'],
      ['a grant that is none', '/v1/grants/x/revoke', { raw: '{}' }, 422, 'ADM-001'],
      ['an approval that is none', '/v1/approvals/%2e%2e/approve', { raw: '{}' }, 422, 'ADM-001'],
      ['a doubt of nobody', `/v1/ledger/in-doubt/${call}`, { body: { rule: 'refund' } }, 409, 'ADM-003'],
      ['a rule that is none', `/v1/ledger/in-doubt/${call}`, { body: { rule: 'burn' } }, 422, 'ADM-001'],
      ['a tier of an agent without its tenant', '/v1/trust', { body: { party: 'agent', name: 'planner', tier: 'T0' } }, 422, 'ADM-001'],
      ['a tier of a person without an issuer', '/v1/trust', { body: { party: 'human', name: 'ada', tier: 'T0' } }, 422, 'ADM-001'],
      ['a tier of a server that is not there', '/v1/trust', { body: { party: 'server', name: 'nosuch', tier: 'T0' } }, 422, 'ADM-001'],
      ...[{ server: 'nosuch' }, { tool: 'noslash' }, { tool: 'open/nosuch' }, { delegator: 'ada' }].map((scope) =>
        ['a budget that could count nothing', '/v1/budgets', { body: { name: 'x', limit: '1 USD', window: '24h', scope } }, 422, 'ADM-001']),
      ['a refund of nobody', `/v1/ledger/refunds/${call}`, { body: { reference: 'x' } }, 409, 'ADM-003'],
      ['an unclaimed refund that is none', '/v1/ledger/unclaimed/zz', { body: { reference: 'x' } }, 422, 'ADM-001'],
      ['an unclaimed refund of nobody', `/v1/ledger/unclaimed/${'0'.repeat(64)}`, { body: { reference: 'x' } }, 404, 'ADM-002'],
      ['an unclaimed refund without a reference', `/v1/ledger/unclaimed/${'0'.repeat(64)}`, { body: { reference: '' } }, 422, 'ADM-001'],
      ['a credential that is none', '/v1/credentials/zz/revoke', { raw: '{}' }, 422, 'ADM-001'],
      ['nowhere', '/v1/nowhere', { raw: '{}' }, 404, 'ADM-002'],
    ]) {
      const { status: got, body } = await post(path, undefined, options);
      assert.deepEqual([what, got, body.code], [what, status, code], JSON.stringify(body));
    }
    for (const [path, status] of [
      ['/v1/calls?limit=x', 422], ['/v1/calls?limit=-1', 422], ['/v1/calls?nothing=1', 422],
      ['/v1/calls?before=x', 422], ['/v1/audit?from=-1', 422], ['/v1/calls/x', 422], [`/v1/calls/${call}`, 404],
    ]) {
      const { status: got, body } = await admin(gateway, path);
      assert.equal(got, status, `${path}: ${JSON.stringify(body)}`);
      assert.match(body.code, /^ADM-00[12]$/, path);
    }
  }));
});

/** A command by itself: {code, stdout, stderr}. */
async function run(args, { cwd = home, env = {} } = {}) {
  const command = start(gatewayBinary, args, { cwd, env: { HOME: home, ...env } });
  const late = setTimeout(() => command.kill9(), 20_000);
  const { code, signal } = await command.ended;
  clearTimeout(late);
  const [stdout, stderr] = [command.stdout(), command.stderr()];
  assert.equal(signal, null, `${args.join(' ')}: ended by ${signal}\n${stderr}`);
  assert.ok(!stderr.includes('panicked'), stderr);
  return { code, stdout, stderr };
}

describe('configurations', () => {
  const good = () => configBefore(parts, { servers: { open: servers.open } })({ port: 8402 });
  let n = 0;
  async function check(text, kind = 'yaml') {
    const dir = path.join(home, `config-${n++}`);
    mkdirSync(dir);
    const file = path.join(dir, `countersign.${kind}`);
    writeFileSync(file, text);
    return { ...(await run(['check', '--config', file, '--json'], { cwd: dir })), dir, file };
  }
  const tool = (terms) => ({ servers: { open: { upstream: 'http://127.0.0.1:9/mcp', tools: { t: terms } } } });

  test('the good one is good', async () => {
    const { code, stdout } = await check(JSON.stringify(good()));
    assert.equal(code, 0, stdout);
    assert.equal(JSON.parse(stdout).ok, true);
  });

  test('what is wrong is said with its place, and nothing is served', async () => {
    for (const [what, changes, place] of [
      ['an unknown member', { listen: 'x' }, /listen.*|listen/],
      ['an unknown member of a tool', tool({ price: 'free', priec: 1 }), /priec/],
      ['a price without a unit', tool({ price: '0.01' }), /price/],
      ['a price that is a number', tool({ price: 0.01 }), /price/],
      ['a negative price', tool({ price: '-1 USDC' }), /price/],
      ['a price of nothing', tool({ price: '0 USDC' }), /price/],
      ['a price of 1e30', tool({ price: '1e30 USDC' }), /price/],
      ['a price of NaN', tool({ price: 'NaN USDC' }), /price/],
      ['a price in other digits', tool({ price: '٣ sat' }), /price/],
      ['a price finer than the asset', tool({ price: '0.00000001 USDC' }), /price/],
      ['a price in no asset', tool({ price: '1 DOGE' }), /price/],
      ['no price', tool({}), /price/],
      ['an identity that is none', tool({ price: 'free', identity: 'maybe' }), /identity/],
      ['no uses', tool({ price: '3 sat', uses: 0 }), /uses/],
      ['a deadline that is none', tool({ price: 'free', deadline: '1 fortnight' }), /deadline/],
      ['a deadline beyond the limit', tool({ price: 'free', deadline: '1h' }), /deadline/],
      ['an upstream with a user', { servers: { open: { upstream: 'http://u:p@127.0.0.1/mcp', tools: {} } } }, /upstream/],
      ['an upstream at a forbidden address', { servers: { open: { upstream: 'http://10.1.2.3/mcp', allow_private_network: false, tools: {} } } }, /upstream/],
      ['an upstream that is none', { servers: { open: { upstream: 'stdio', tools: {} } } }, /upstream/],
      ['a server in capitals', { servers: { Open: { upstream: 'http://127.0.0.1:9/mcp' } } }, /Open/],
      ['a secret in the file', { servers: { open: { upstream: 'http://127.0.0.1:9/mcp', headers: { 'x-key': 'hunter2' } } } }, /x-key/],
      ['a secret that is not there', { servers: { open: { upstream: 'http://127.0.0.1:9/mcp', headers: { 'x-key': 'env:NOT_THERE' } } } }, /NOT_THERE/],
      ['an address with a wrong checksum', { rails: { x402: { pay_to: '0x209693bc6afc0C5328bA36FaF03C514EF312287C', facilitator: { sandbox: parts.facilitator } } } }, /pay_to/],
      ['a sandbox for everybody', { listen: '0.0.0.0:8402', public_url: 'http://gw.example.com' }, /listen|sandbox/],
      ['a listener that is none', { listen: 'everywhere' }, /listen/],
      ['a socket with too long a path', { admin_socket: `/tmp/${'x'.repeat(120)}` }, /admin_socket/],
      ['a budget without a limit', { budgets: [{ name: 'b', scope: {}, window: '24h' }] }, /limit/],
      ['two budgets of one name', { budgets: [1, 2].map(() => ({ name: 'b', scope: {}, limit: '1 USD', window: '24h' })) }, /budgets|name/],
      ['a limit of nothing', { limits: { body: '0 B' } }, /body/],
      ['a policy that is not there', { policy: { dir: './nowhere' } }, /nowhere/],
      ['a list for a map', { servers: [] }, /servers/],
      ['null', { servers: null }, /servers/],
    ]) {
      const { code, stdout, stderr, dir, file } = await check(JSON.stringify({ ...good(), ...changes }, null, 1));
      const said = stdout + stderr;
      if (what === 'a policy that is not there' && code === 0) {
        // Found when it is opened, if not before.
        const { code: served, stderr: why } = await run(['serve', '--config', file], { cwd: dir });
        assert.deepEqual([what, served], [what, 2], why);
        assert.match(why, place);
        continue;
      }
      assert.deepEqual([what, code], [what, 2], said);
      const { ok, problems } = JSON.parse(stdout);
      assert.equal(ok, false);
      assert.ok(problems.length > 0 && problems.every(({ message }) => message), said);
      assert.match(JSON.stringify(problems), place, what);
      assert.ok(!said.includes('hunter2'), 'a secret is shown');
      const served = await run(['serve', '--config', file], { cwd: dir });
      assert.deepEqual([what, served.code], [what, 2], served.stderr);
      assert.ok(!existsSync(path.join(dir, 'data')), `${what}: a data directory was made`);
    }
  });

  test('files that are none', async () => {
    const bomb = ['a: &a [x,x,x,x,x,x,x,x,x]', ...'bcdefghi'.split('').map((name, at) =>
      `${name}: &${name} [${Array(9).fill(`*${'abcdefghi'[at]}`).join(',')}]`)].join('\n');
    for (const [what, text, kind] of [
      ['nothing', ''], ['text', 'hello'], ['a list', '[]'], ['a scalar', '7'], ['NUL', '\0\0\0'],
      ['bytes', Buffer.from([0xff, 0xfe, 0x80])], ['a tab', 'listen:\n\t- x'], ['half', '{"listen": "127'],
      ['a member twice', `${JSON.stringify(good()).slice(0, -1)},"sandbox":true}`],
      ['aliases without end', bomb], ['an anchor to itself', 'a: &a [*a]'], ['a tag', 'listen: !!python/object x'],
      ['very deep', '['.repeat(100_000)], ['very deep maps', '{"a":'.repeat(20_000)],
      ['broken TOML', 'listen = ', 'toml'], ['a member twice in TOML', 'listen = "a"\nlisten = "b"', 'toml'],
      ['broken JSON', '{"listen": }', 'json'], ['JSON with a comment', '{} // x', 'json'],
      ['large', `# ${'x'.repeat(20 << 20)}`],
      ['another kind', JSON.stringify({}), 'ini'],
    ]) {
      const { code, stdout, stderr } = await check(text, kind);
      assert.deepEqual([what, code], [what, 2], stdout + stderr);
      assert.ok((stdout + stderr).length > 20, what);
    }
    const gone = await run(['check', '--config', path.join(home, 'not-there.yaml')]);
    assert.equal(gone.code, 2);
    const directory = await run(['check', '--config', home]);
    assert.equal(directory.code, 2);
  });

  test('a member that is nearly right is suggested', async () => {
    const { stdout } = await check(JSON.stringify({ ...good(), lisen: '127.0.0.1:1' }));
    assert.match(JSON.stringify(JSON.parse(stdout).problems), /listen/);
  });
});

describe('the command line', () => {
  const at = () => ['--config', gateway.configFile];
  const end = (name) => `${gateway.url}/${name}/mcp`;

  test('refuses what it does not understand', () => harmless(async () => {
    const junk = path.join(home, 'junk');
    writeFileSync(junk, '\0\xff{"a":'.repeat(999));
    const call = `call_${'0'.repeat(32)}`;
    for (const [args, ...codes] of [
      [[], 2], [['serv'], 2], [['--nothing'], 2], [['call'], 2], [['grant', 'create'], 2],
      [['refusals', 'XYZ-999'], 2], [['refusals', ''], 2],
      [[...at(), 'calls', 'show', 'x'], 2], [[...at(), 'calls', 'show', call], 2, 1],
      [[...at(), 'calls', 'list', '--limit', '-1'], 2], [[...at(), 'calls', 'list', '--limit', '1e9'], 2],
      [[...at(), 'ledger', 'resolve', call, 'burn'], 2], [[...at(), 'ledger', 'resolve', call, 'refund'], 2],
      [[...at(), 'ledger', 'refunded', call, '--reference', ''], 2],
      [[...at(), 'ledger', 'claimed', 'x', '--reference', 'x'], 2],
      [[...at(), 'credential', 'revoke', 'x'], 2],
      [[...at(), 'grant', 'show', 'x'], 2], [[...at(), 'approvals', 'approve', 'x'], 2],
      [[...at(), 'grant', 'create', '--subject', 'a', '--issuer', issuer.url, '--agent', 'a', '--server', 'open', '--tool', 'nothing', '--intent', 'read', '--per-call', '1 USD', '--expires', '1h'], 2],
      [[...at(), 'grant', 'create', '--subject', 'a', '--issuer', issuer.url, '--agent', 'a', '--server', 'open', '--tool', '*', '--intent', 'read', '--per-call', 'much', '--expires', '1h'], 2],
      [[...at(), 'audit', 'prove', 'x'], 2], [[...at(), 'audit', 'prove', call], 1],
      [['audit', 'verify', '--log', '/nowhere', '--key', 'x'], 2], [['audit', 'verify', '--log', home, '--key', 'x+y+z'], 2],
      [[...at(), 'audit', 'verify', '--receipt', junk], 1, 2], [[...at(), 'audit', 'verify', '--checkpoint', junk], 1, 2],
      [[...at(), 'audit', 'verify-proof', junk], 2, 1], [[...at(), 'audit', 'verify-proof', '/nowhere'], 2],
      [[...at(), 'audit', 'tail', '--limit', 'x'], 2],
      [[...at(), 'receipt', 'verify', junk], 1, 2], [[...at(), 'receipt', 'verify', home], 2, 1],
      [['status', '--socket', '/nowhere/admin.sock'], 15, 2], [['status', '--socket', junk], 15, 2],
      [['init', path.join(junk, 'below-a-file')], 2], [['keys', 'show', '--config', junk], 2],
      [['doctor', '--config', '/nowhere.yaml'], 1, 2],
      [['sandbox', '--lightning', '70000'], 2], [['sandbox', '--lightning', String(gateway.port)], 1, 2],
      [['call', 'not a url', 't'], 2], [['call', 'ftp://x/', 't'], 2], [['call', 'http://gw.example.com/x/mcp', 't'], 2, 15],
      [['call', end('open'), 'status', '[]'], 2], [['call', end('open'), 'status', '{"a":1,"a":2}'], 2], [['call', end('open'), 'status', 'x'], 2],
      [['call', end('open'), 'status', '@/nowhere'], 2], [['call', end('open'), 'status', '--header', 'x'], 2],
      [['call', end('open'), 'status', '--bearer', 'a.b.c'], 2], [['call', end('open'), 'status', '--bearer', 'env:NOT_THERE'], 2],
      [['call', end('open'), 'status', '--wallet', '/nowhere'], 2], [['call', end('open'), 'status', '--wallet', junk], 2],
      [['call', end('open'), 'status', '--key', 'nokey'], 2], [['call', end('open'), 'status', '--max-price', 'much'], 2], [['call', end('open'), 'status', '--rail', 'barter'], 2],
      [['call', end('open'), 'status', '--intent', 'mischief'], 2], [['call', end('open'), 'status', '--timeout', '-1'], 2],
      [['call', end('open'), 'unknown_tool'], 17], [['call', end('nowhere'), 'status'], 17, 15],
      [['call', end('open'), 'get_forecast'], 10], [['call', end('weather'), 'get_forecast'], 11],
      [['call', 'http://127.0.0.1:9/x/mcp', 't'], 15], [['quote', end('open'), 'unknown_tool'], 17],
    ]) {
      const { code, stdout, stderr } = await run(args);
      assert.ok(codes.includes(code), `countersign ${args.join(' ')}: exit ${code}, not ${codes}\n${stdout}${stderr}`);
      assert.ok((stdout + stderr).length > 10, `countersign ${args.join(' ')}: says nothing`);
    }
  }));

  test('says what is wrong and what to do, as JSON when piped', async () => {
    const called = await run(['call', end('open'), 'get_forecast']);
    const { outcome, problem } = JSON.parse(called.stdout);
    assert.deepEqual([called.code, outcome, problem.code], [10, 'declined', 'PAY-001']);
    assert.ok(problem.next.action);
    const mistyped = await run(['refusals', 'XYZ-999']);
    const { error, exit } = JSON.parse(mistyped.stderr);
    assert.equal(exit, 2);
    assert.match(error.message, /XYZ-999/);
    assert.match(error.next, /countersign refusals/);
  });
});

test('a server whose name leads into the private network is not called', async () => {
  const ran = await parts.ran('delete_report');
  const refused = await callTool(gateway, 'closed', 'delete_report', {});
  assert.deepEqual([refused.code, refused.problem.charged], ['UPS-001', 'no'], refused.text);
  assert.equal(await parts.ran('delete_report'), ran);
});

test('after all that, a paid call runs, the accounts balance, and it ends in order', async () => {
  const paid = await buy(parts, gateway, 'open', 'get_forecast', { city: 'at last' });
  const options = { headers: l402(paid) };
  const answer = await callTool(gateway, 'open', 'get_forecast', { city: 'at last' }, options);
  assert.equal(answer.status, 200, answer.text);
  assert.deepEqual(await unbalanced(gateway), []);

  const other = await startBefore(parts, { servers: { open: servers.open } }, {
    dir: mkdtempSync(path.join(home, 'ends-')),
  });
  const socket = path.join(other.dir, 'data', 'admin.sock');
  assert.ok(existsSync(socket));
  assert.deepEqual(await other.stop(), { code: 0, signal: null });
  assert.ok(!existsSync(socket), 'the admin socket is left behind');
});
