// Invoices made ahead: a challenge waits for no node, an invoice is for one credential, and none is
// shown that its node could not honour.

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { until } from './lib/process.mjs';
import {
  callTool, l402, lightningOffer, receiptOf, startBefore, startParts,
} from './lib/rig.mjs';

const anonymous = { identity: 'anonymous' };
const servers = {
  open: {
    tools: {
      get_forecast: { price: '3 sat', ...anonymous },
      get_report: { price: '3 sat', uses: 2, ...anonymous },
      status: { price: '5 sat', ...anonymous },
    },
  },
};

let parts;
before(async () => (parts = await startParts()));
after(() => parts?.stop());

/**
 * The sandbox's node behind a proxy that remembers what was asked, and can be slow, or gone.
 * @returns {url, made(), delay_ms, isGone, stop()}
 */
async function startTap() {
  const tap = { delay_ms: 0, isGone: false, asked: [], sockets: new Set() };
  const server = http.createServer(async (request, response) => {
    let text = '';
    for await (const part of request) text += part;
    if (tap.isGone) return request.socket.destroy();
    const isInvoice = request.method === 'POST' && request.url === '/v1/invoices';
    if (isInvoice) tap.asked.push(JSON.parse(text));
    if (isInvoice) await sleep(tap.delay_ms);
    const init = { method: request.method, body: text || undefined, headers: { 'content-type': 'application/json' } };
    const answer = await fetch(`${parts.lightning}${request.url}`, init).catch(() => undefined);
    if (!answer || tap.isGone) return request.socket.destroy();
    response.writeHead(answer.status, { 'content-type': 'application/json' });
    response.end(await answer.text());
  });
  server.on('connection', (socket) => tap.sockets.add(socket));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return Object.assign(tap, {
    url: `http://127.0.0.1:${server.address().port}`,
    made: () => tap.asked.length,
    /** As when the node's process ends: every connection too. */
    leave: () => {
      tap.isGone = true;
      tap.sockets.forEach((socket) => socket.destroy());
    },
    stop: () => {
      server.closeAllConnections();
      server.close();
    },
  });
}

/** A gateway before that node, and the node. */
async function start({ hold = false, prefetch = 3, limits = {} } = {}) {
  const tap = await startTap();
  const gateway = await startBefore(parts, {
    servers,
    rails: { l402: { source: { sandbox: tap.url }, hold, prefetch } },
    limits: { open_quotes_per_principal: 4096, ...limits },
  });
  return { tap, gateway, stop: async () => { await gateway.stop(); tap.stop(); } };
}

async function challenge(gateway, tool, args) {
  const answer = await callTool(gateway, 'open', tool, args);
  const offer = lightningOffer(answer);
  assert.ok(offer, `no Lightning offer: ${answer.status} ${answer.text}`);
  return offer;
}

/** Asks once, so that the kind is known, and waits until it is ready. */
async function warm({ tap, gateway }, tool, ready) {
  // Nothing is handed out before the node was looked at.
  await until('the node was seen', async () => {
    const { nodes } = await gateway.cli('status');
    return nodes[0].seen_at;
  });
  const first = await challenge(gateway, tool, { city: 'first' });
  await until('invoices are ready', () => tap.made() >= ready + 1);
  await sleep(200);
  return first;
}

for (const hold of [false, true]) {
  describe(hold ? 'hold invoices' : 'plain invoices', { concurrency: 1 }, () => {
    test('are ready before they are asked for, each for one credential, and are paid as any other', async () => {
      const own = await start({ hold });
      const { tap, gateway } = own;
      try {
        const first = await warm(own, 'get_forecast', 3);
        assert.equal(tap.made(), 4);
        tap.delay_ms = 3_000;
        const begun = Date.now();
        const offers = [];
        for (const city of ['a', 'b', 'c']) offers.push(await challenge(gateway, 'get_forecast', { city }));
        assert.ok(Date.now() - begun < 2_000, 'a challenge waited for the node');
        const invoices = new Set([first, ...offers].map(({ invoice }) => invoice));
        const hashes = new Set([first, ...offers].map(({ token }) => Buffer.from(token, 'base64').subarray(0, 120).toString('hex')));
        assert.deepEqual([invoices.size, hashes.size], [4, 4], 'an invoice was handed out twice');
        tap.delay_ms = 0;
        for (const [n, city] of ['a', 'b', 'c'].entries()) {
          const preimage = await parts.pay(offers[n].invoice);
          const answer = await callTool(gateway, 'open', 'get_forecast', { city }, { headers: l402({ ...offers[n], preimage }) });
          assert.ok(receiptOf(answer.result), answer.text);
        }
        await until('they are replaced', () => tap.made() >= 7);
        for (const { memo, amount_msat, expiry_s, payment_hash } of tap.asked) {
          assert.deepEqual([memo, amount_msat], ['open/get_forecast', 3000]);
          assert.ok(expiry_s >= 299 && expiry_s <= 300, `${expiry_s} s`);
          assert.equal(payment_hash !== undefined, hold);
        }
        // One made for a tool is for that tool alone.
        const before = tap.made();
        await challenge(gateway, 'status', { city: 'other' });
        assert.ok(tap.asked.slice(before).some(({ memo, amount_msat }) => memo === 'open/status' && amount_msat === 5000));
      } finally {
        await own.stop();
      }
    });
  });
}

describe('what is ready', { concurrency: 1 }, () => {
  test('lapses no later than its quote, and is replaced at half of its time', async () => {
    const own = await start({ limits: { quote_ttl: '10s' } });
    const { tap, gateway } = own;
    try {
      await warm(own, 'get_forecast', 3);
      const before = tap.made();
      await until('they are replaced', () => tap.made() >= before + 3, { timeout_ms: 15_000 });
      const answer = await callTool(gateway, 'open', 'get_forecast', { city: 'late' });
      const offer = lightningOffer(answer);
      const { body } = { body: await (await fetch(`${parts.lightning}/v1/events`)).json() };
      assert.ok(body && offer);
      const preimage = await parts.pay(offer.invoice);
      const done = await callTool(gateway, 'open', 'get_forecast', { city: 'late' }, { headers: l402({ ...offer, preimage }) });
      assert.ok(receiptOf(done.result), done.text);
    } finally {
      await own.stop();
    }
  });

  test('is never offered once its node is gone, nor when it is back', async () => {
    const own = await start();
    const { tap, gateway } = own;
    try {
      await warm(own, 'get_forecast', 3);
      const known = new Set();
      tap.leave();
      // A long request for news ends with the connection: the gateway knows at once.
      await sleep(300);
      for (let n = 0; n < 10; n++) {
        const answer = await callTool(gateway, 'open', 'get_forecast', { gone: n });
        assert.deepEqual([answer.status, answer.code], [503, 'PAY-018'], answer.text);
        assert.equal(lightningOffer(answer), undefined);
      }
      const made = tap.made();
      tap.isGone = false;
      await until('it is offered again', async () => {
        const offer = lightningOffer(await callTool(gateway, 'open', 'get_forecast', { back: known.size }));
        if (offer) known.add(offer.invoice);
        return offer;
      }, { timeout_ms: 20_000, every_ms: 500 });
      assert.ok(tap.made() > made, 'an invoice from before was offered');
    } finally {
      await own.stop();
    }
  });

  test('nothing is made ahead where that is off', async () => {
    const own = await start({ prefetch: 0 });
    try {
      await warm(own, 'get_forecast', 0);
      await challenge(own.gateway, 'get_forecast', { city: 'second' });
      await sleep(300);
      assert.equal(own.tap.made(), 2);
    } finally {
      await own.stop();
    }
  });
});
