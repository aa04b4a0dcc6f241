// Payment over x402: stock clients of every form, real settlement on a chain by the built-in
// facilitator and by the reference one, and everything that must not count as payment.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as timeout } from 'node:timers/promises';

import { NETWORK, USDC, startChain, usdcDomain } from './lib/chain.mjs';
import { startEverything } from './lib/everything.mjs';
import { startFacilitator } from './lib/facilitator.mjs';
import {
  Parts,
  assets,
  builtinFacilitator,
  buyL402,
  call,
  callOf,
  facilitatorEnv,
  grant,
  issuerConfig,
  l402Meta,
  post,
  problemOf,
  receiptOf,
  textOf,
} from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { cloudflareClient, legacyClient, modernClient } from './lib/mcpclients.mjs';
import { freePort, until } from './lib/process.mjs';
import { pythonJson } from './lib/python.mjs';
import { startSandbox } from './lib/sandbox.mjs';
import { startOwnServer, startTap } from './lib/tap.mjs';
import { bearer, decodeHeader, recordingFetch } from './lib/wire.mjs';
import { callPaid, challengeOf, payer, payingFetch, signTransfer } from './lib/x402http.mjs';

// A payer whose account is empty, and a payee other than the chain's merchant.
const POOR = `0x${'11'.repeat(32)}`;
const OTHER_PAYEE = '0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc';
const THIRD_PAYEE = '0x976EA74026E726554dB657fA54763abd0C3a0aa9';
const CENT = 10_000n;

const parts = new Parts();
let chain, sandbox, tap, own, issuer, reference;
let builtin, remote, checked;
// What the reference facilitator is shown by the gateway that checks its word.
const SHOWN = 'canary-of-the-facilitator';

before(() =>
  parts.starting(async () => {
    const ports = [await freePort(), await freePort(), await freePort()];
    const everything = await parts.keep('everything', startEverything());
    chain = await parts.keep('chain', startChain());
    sandbox = await parts.keep('sandbox', startSandbox());
    tap = await parts.keep(
      'tap',
      startTap(() => everything.url),
    );
    own = await parts.keep(
      'own',
      startOwnServer({
        tools: ['get_a', 'get_b', 'get_late'].map((name) => ({
          name,
          inputSchema: { type: 'object' },
        })),
        answer: (message) =>
          JSON.stringify({
            resultType: 'complete',
            content: [{ type: 'text', text: `ran ${message.params.name}` }],
          }),
      }),
    );
    reference = await parts.keep('reference', startFacilitator(chain));
    const resources = ports.flatMap((port) =>
      ['main', 'own'].map((server) => resource(port, server)),
    );
    issuer = await parts.keep('issuer', startIssuer({ resources }));
    builtin = await open(ports[0], builtinFacilitator(chain), chain.merchant.address);
    remote = await open(ports[1], { url: reference.url }, OTHER_PAYEE);
    const more = { rpc: chain.rpc, authorization: 'Bearer env:E2E_FACILITATOR_TOKEN' };
    checked = await open(ports[2], { url: reference.url }, THIRD_PAYEE, more);
  }),
);

after(() => parts.stop());

const resource = (port, server) => `http://127.0.0.1:${port}/${server}/mcp`;

// A gateway with alice's tokens and her grant: what is missing is payment alone.
async function open(port, facilitator, payTo, more = {}) {
  const had = await chain.balance(payTo);
  const gateway = await parts.keep(
    `gateway ${port}`,
    startGateway({
      port,
      env: { ...facilitatorEnv(chain), E2E_FACILITATOR_TOKEN: SHOWN },
      config: {
        listen: `127.0.0.1:${port}`,
        sandbox: true,
        issuers: [issuerConfig(issuer)],
        assets,
        limits: { open_quotes_per_principal: 1000 },
        rails: {
          x402: { pay_to: payTo, facilitator, ...more },
          l402: { source: { sandbox: sandbox.lightning }, hold: false },
        },
        servers: {
          main: {
            upstream: tap.url,
            tools: {
              echo: { price: '0.01 USDC' },
              'get-sum': { price: ['0.01 USDC', '16 sat'] },
              'get-structured-content': { price: '0.01 USDC' },
              'get-resource-links': { price: '0.01 USDC', flow: 'authorization' },
            },
          },
          own: {
            upstream: own.url,
            tools: {
              get_a: { price: '0.01 USDC' },
              get_b: { price: '0.01 USDC' },
              get_late: { price: '0.01 USDC', flow: 'authorization', deadline: '5s' },
            },
          },
        },
      },
    }),
  );
  const [main, ours, bobs] = await Promise.all([
    issuer.userToken('alice', resource(port, 'main')),
    issuer.userToken('alice', resource(port, 'own')),
    issuer.userToken('bob', resource(port, 'own')),
  ]);
  for (const server of ['main', 'own']) await grant(gateway, issuer, { server });
  await grant(gateway, issuer, { server: 'own', subject: 'bob' });
  return {
    gateway,
    payTo,
    had,
    // What moved to the payee without this gateway.
    around: 0n,
    main: { url: resource(port, 'main'), token: main },
    own: { url: resource(port, 'own'), token: ours },
    bob: { url: resource(port, 'own'), token: bobs },
  };
}

/** Runs `step`, and asserts what moved from the payer to the payee of `at`. */
async function moves(amount, at, step) {
  const balances = async () => [
    await chain.balance(chain.payer.address),
    await chain.balance(at.payTo),
  ];
  const [payer0, payee0] = await balances();
  const value = await step();
  const [payer1, payee1] = await balances();
  assert.deepEqual([payer0 - payer1, payee1 - payee0], [amount, amount], 'what moved');
  return value;
}

/** The one transfer of a transaction, with the use of its authorization. */
async function settlementOf(transaction) {
  const [transfers, used] = await Promise.all(
    ['Transfer', 'AuthorizationUsed'].map(async (name) =>
      (await chain.events(name)).filter((event) => event.transaction === transaction),
    ),
  );
  assert.equal(transfers.length, 1, `transfers of ${transaction}`);
  assert.equal(used.length, 1);
  assert.equal(used[0].args.authorizer, transfers[0].args.from);
  return { ...transfers[0].args, nonce: used[0].args.nonce };
}

async function settledTo(at, response, payment) {
  assert.equal(response.success, true);
  assert.equal(response.network, NETWORK);
  assert.equal(response.payer.toLowerCase(), chain.payer.address.toLowerCase());
  const settlement = await settlementOf(response.transaction);
  assert.equal(settlement.from, chain.payer.address);
  assert.equal(settlement.to, at.payTo);
  assert.equal(settlement.value, CENT);
  if (payment) assert.equal(settlement.nonce, payment.payload.authorization.nonce);
}

const withClient = async (connecting, use) => {
  const client = await connecting;
  try {
    return await use(client);
  } finally {
    await client.close();
  }
};

const postCall = ({ token }, message) => ({
  method: 'POST',
  headers: { ...bearer(token), 'content-type': 'application/json' },
  body: JSON.stringify(message),
});

for (const [name, gatewayOf] of [
  ['the built-in facilitator', () => builtin],
  ['the reference facilitator', () => remote],
]) {
  describe(`stock clients, settled by ${name}`, () => {
    let at;
    before(() => (at = gatewayOf()));

    test('@x402/fetch over HTTP', async () => {
      const { fetch, wire } = recordingFetch();
      const earlier = tap.calls('echo');
      const response = await moves(CENT, at, () =>
        payingFetch(chain.payer.key, fetch)(
          at.main.url,
          postCall(at.main, callOf('echo', { message: 'over HTTP' })),
        ),
      );
      const answer = { json: await response.json() };
      assert.equal(response.status, 200, JSON.stringify(answer.json));
      assert.equal(textOf(answer), 'Echo: over HTTP');
      assert.ok(receiptOf(answer));
      assert.equal(tap.calls('echo') - earlier, 1);
      assert.deepEqual(
        wire.map(({ status }) => status),
        [402, 200],
      );
      assert.match(wire[0].responseHeaders['cache-control'], /no-store/);
      await settledTo(
        at,
        decodeHeader(response.headers.get('payment-response')),
        decodeHeader(wire[1].headers['payment-signature']),
      );
    });

    test('x402 inside MCP, with the legacy SDK', async () => {
      const earlier = tap.seen.length;
      const { result, payment } = await withClient(
        legacyClient(at.main.url, { token: at.main.token }),
        (client) =>
          moves(CENT, at, () =>
            callPaid(client, chain.payer.key, { name: 'echo', arguments: { message: 'in MCP' } }),
          ),
      );
      assert.equal(textOf(result), 'Echo: in MCP');
      await settledTo(at, result._meta['x402/payment-response'], payment);
      const said = JSON.stringify(tap.seen.slice(earlier));
      const { signature, authorization } = payment.payload;
      for (const secret of [signature, authorization.nonce]) {
        assert.ok(!said.includes(secret.slice(2)), 'the payment reached the server');
      }
    });

    test('x402 inside MCP, with the modern SDK', () =>
      withClient(modernClient(at.own.url, { token: at.own.token }), async (client) => {
        const { result, payment } = await moves(CENT, at, () =>
          callPaid(client, chain.payer.key, { name: 'get_a', arguments: { era: 'modern' } }),
        );
        assert.equal(textOf(result), 'ran get_a');
        await settledTo(at, result._meta['x402/payment-response'], payment);
      }));

    test('a tool with an output schema', () =>
      withClient(legacyClient(at.main.url, { token: at.main.token }), async (client) => {
        await client.listTools();
        const { result } = await moves(CENT, at, () =>
          callPaid(client, chain.payer.key, {
            name: 'get-structured-content',
            arguments: { location: 'Chicago' },
          }),
        );
        assert.equal(typeof result.structuredContent.temperature, 'number');
      }));

    test('x402 inside MCP, from Python', async () => {
      const { tools, results } = await moves(CENT, at, () =>
        pythonJson('x402_mcp.py', {
          job: {
            url: at.main.url,
            token: at.main.token,
            key: chain.payer.key,
            calls: [{ tool: 'echo', arguments: { message: 'from Python' } }],
          },
        }),
      );
      assert.ok(tools.includes('echo'));
      const [result] = results;
      assert.equal(result.is_error, false, JSON.stringify(result));
      assert.equal(result.content[0].text, 'Echo: from Python');
      assert.equal(result.payment_made, true);
      await settledTo(at, result.payment_response);
    });

    test('x402 inside MCP, as Cloudflare has it', () =>
      withClient(legacyClient(at.main.url, { token: at.main.token }), async (inner) => {
        const client = await cloudflareClient(inner, { key: chain.payer.key });
        const offered = [];
        const result = await moves(CENT, at, () =>
          client.callTool((offers) => offered.push(...offers) > 0, {
            name: 'echo',
            arguments: { message: 'from agents' },
          }),
        );
        assert.equal(offered.length, 1);
        assert.equal(textOf(result), 'Echo: from agents');
        await settledTo(at, result._meta['x402/payment-response']);
      }));

    test('a tool that runs before the money is taken', () =>
      withClient(legacyClient(at.main.url, { token: at.main.token }), async (client) => {
        const { result, challenge, payment } = await moves(CENT, at, () =>
          callPaid(client, chain.payer.key, {
            name: 'get-resource-links',
            arguments: { count: 1 },
          }),
        );
        assert.ok(['authorization', undefined].includes(challenge.accepts[0].extra.paymentFlow));
        assert.ok(!result.isError, JSON.stringify(result));
        await settledTo(at, result._meta['x402/payment-response'], payment);
      }));

    test('money is taken before the run or after it, as the tool says', async () => {
      const balances = [];
      own.respond(async () => {
        balances.push(await chain.balance(at.payTo));
        return '{"resultType":"complete","content":[]}';
      });
      await withClient(modernClient(at.own.url, { token: at.own.token }), async (client) => {
        for (const [tool, before] of [
          ['get_a', CENT],
          ['get_late', 0n],
        ]) {
          const earlier = await chain.balance(at.payTo);
          const { result } = await moves(CENT, at, () =>
            callPaid(client, chain.payer.key, { name: tool, arguments: { when: 'now' } }),
          );
          assert.ok(!result.isError, JSON.stringify(result));
          assert.equal(balances.at(-1) - earlier, before, tool);
        }
      });
      own.respond();
    });

    test('a payer without money', async () => {
      const {
        gateway: _,
        own: { url, token },
      } = at;
      const asked = await call(url, { token, name: 'get_a', args: { poor: name } });
      const payment = await payer(POOR).createPaymentPayload(challengeOf(asked.json.result));
      const answer = await moves(0n, at, () =>
        call(url, {
          token,
          name: 'get_a',
          args: { poor: name },
          meta: { 'x402/payment': payment },
        }),
      );
      // The reference facilitator says only that a simulation failed.
      assert.equal(problemOf(answer)?.code, at === builtin ? 'PAY-016' : 'PAY-009', answer.text);
      assert.equal(problemOf(answer).charged, 'no');
    });

    test('the payer takes the authorization back before the call', async () => {
      const {
        own: { url, token },
      } = at;
      const args = { cancelled: name };
      const asked = await call(url, { token, name: 'get_a', args });
      const payment = await payer(chain.payer.key).createPaymentPayload(
        challengeOf(asked.json.result),
      );
      await chain.cancel(payment.payload.authorization.nonce);
      const runs = own.calls();
      const answer = await moves(0n, at, () =>
        call(url, { token, name: 'get_a', args, meta: { 'x402/payment': payment } }),
      );
      assert.match(problemOf(answer).code, /^PAY-00[89]$/, answer.text);
      assert.equal(problemOf(answer).charged, 'no');
      assert.equal(own.calls(), runs);
    });

    test('the payer takes it back while the tool runs: the result is withheld', async () => {
      const {
        own: { url, token },
      } = at;
      const args = { withheld: name };
      const asked = await call(url, { token, name: 'get_late', args });
      const payment = await payer(chain.payer.key).createPaymentPayload(
        challengeOf(asked.json.result),
      );
      own.respond(async () => {
        await chain.cancel(payment.payload.authorization.nonce);
        return '{"content":[{"type":"text","text":"the secret"}]}';
      });
      const runs = own.calls('get_late');
      const pay = () =>
        call(url, { token, name: 'get_late', args, meta: { 'x402/payment': payment } });
      const answer = await moves(0n, at, pay);
      own.respond();
      assert.equal(own.calls('get_late') - runs, 1);
      assert.ok(!answer.text.includes('the secret'), answer.text);
      // What a facilitator refuses after an attempt may still be its own doing: without a chain
      // to look at, the gateway knows only that it does not know.
      const [code, charged] = at === builtin ? ['UPS-005', 'no'] : ['PAY-010', 'unknown'];
      assert.equal(problemOf(answer)?.code, code, answer.text);
      assert.equal(problemOf(answer).charged, charged);
      const again = await moves(0n, at, pay);
      assert.ok(!again.text.includes('the secret'));
      assert.equal(own.calls('get_late') - runs, 1, 'a dead payment does not run it again');
    });
  });
}

// What the reference facilitator was asked about one payment. Meanwhile the gateway also asks about
// those of earlier tests whose end it does not know.
function askedAbout({ payload: { authorization } }) {
  const isOf = ({ body }) => body?.paymentPayload?.payload.authorization.nonce === authorization.nonce;
  return reference.asked.filter(isOf);
}

test('the reference facilitator is asked to verify and to settle, once each', async () => {
  const { url, token } = remote.own;
  const { payment } = await withClient(legacyClient(url, { token }), (client) =>
    callPaid(client, chain.payer.key, { name: 'get_a', arguments: { once: 'each' } }),
  );
  const asked = askedAbout(payment);
  assert.deepEqual(
    asked.map(({ endpoint }) => endpoint),
    ['verify', 'settle'],
  );
  for (const { body } of asked) {
    assert.equal(body.x402Version, 2);
    assert.equal(body.paymentRequirements.amount, '10000');
    assert.equal(body.paymentRequirements.payTo.toLowerCase(), OTHER_PAYEE.toLowerCase());
  }
});

describe('one payment is one execution', () => {
  const meta = (payment) => ({ 'x402/payment': payment });
  const buy = async ({ url, token }, name, args) => {
    const asked = await call(url, { token, name, args });
    const challenge = challengeOf(asked.json.result);
    assert.ok(challenge, asked.text);
    return payer(chain.payer.key).createPaymentPayload(challenge);
  };
  const codes = (answers) => answers.map((answer) => problemOf(answer)?.code ?? 'ran');

  test('32 calls at once with different arguments', async () => {
    const at = builtin;
    const payment = await buy(at.own, 'get_a', { n: 0 });
    const runs = own.calls();
    const answers = await moves(CENT, at, () =>
      Promise.all(
        Array.from({ length: 32 }, (_, n) =>
          call(at.own.url, {
            token: at.own.token,
            name: 'get_a',
            args: { n },
            meta: meta(payment),
          }),
        ),
      ),
    );
    assert.equal(own.calls() - runs, 1);
    assert.deepEqual(codes(answers), ['ran', ...Array(31).fill('PAY-006')]);
    assert.ok(answers.slice(1).every((answer) => problemOf(answer).charged === 'no'));
  });

  test('32 calls at once with different arguments, over HTTP', async () => {
    const at = builtin;
    const payment = await buy(at.own, 'get_a', { h: 0 });
    const signature = Buffer.from(JSON.stringify(payment)).toString('base64');
    const runs = own.calls();
    const answers = await moves(CENT, at, () =>
      Promise.all(
        Array.from({ length: 32 }, (_, h) =>
          post(at.own.url, callOf('get_a', { h }), {
            ...bearer(at.own.token),
            accept: '*/*',
            'payment-signature': signature,
          }),
        ),
      ),
    );
    assert.equal(own.calls() - runs, 1);
    assert.deepEqual(
      answers.map(({ status }) => status),
      [200, ...Array(31).fill(402)],
    );
  });

  test('32 times the same call at once', async () => {
    const at = builtin;
    const args = { same: true };
    const payment = await buy(at.own, 'get_a', args);
    const runs = own.calls();
    const answers = await moves(CENT, at, () =>
      Promise.all(
        Array.from({ length: 32 }, () =>
          call(at.own.url, { token: at.own.token, name: 'get_a', args, meta: meta(payment) }),
        ),
      ),
    );
    assert.equal(own.calls() - runs, 1);
    for (const answer of answers) {
      const code = problemOf(answer)?.code;
      // In time for the outcome, or told that it is on its way; never asked for more money.
      assert.ok(code === undefined || ['SYS-005', 'PAY-010'].includes(code), answer.text);
      assert.equal(challengeOf(answer.json.result ?? {}), undefined, answer.text);
    }
    assert.ok(codes(answers).includes('ran'), codes(answers).join());
  });

  for (const [flow, tool] of [
    ['upfront', 'get_a'],
    ['authorization', 'get_late'],
  ]) {
    test(`the same call again gets the stored outcome: ${flow}`, async () => {
      const at = builtin;
      const args = { again: flow };
      const payment = await buy(at.own, tool, args);
      const send = (more = {}) =>
        call(at.own.url, { token: at.own.token, name: tool, args, meta: meta(payment), ...more });
      let run = 0;
      own.respond(() => JSON.stringify({ content: [{ type: 'text', text: `run ${++run}` }] }));
      const first = await moves(CENT, at, () => send());
      assert.equal(textOf(first), 'run 1', first.text);
      const second = await moves(0n, at, () => send());
      own.respond();
      assert.equal(textOf(second), 'run 1', second.text);
      assert.equal(run, 1);
      const { result } = second.json;
      assert.match(result._meta['countersign/replay-of'], /^call_/);
      assert.deepEqual(
        result._meta['x402/payment-response'],
        first.json.result._meta['x402/payment-response'],
      );
      await at.gateway.restart();
      assert.equal(textOf(await moves(0n, at, () => send())), 'run 1', 'after a restart too');
    });
  }

  test('paid for one tool, used for another of the same price', async () => {
    const at = builtin;
    const payment = await buy(at.own, 'get_a', { x: 1 });
    const runs = own.calls();
    const answer = await moves(0n, at, () =>
      call(at.own.url, { token: at.own.token, name: 'get_b', args: { x: 1 }, meta: meta(payment) }),
    );
    assert.equal(problemOf(answer)?.code, 'PAY-006');
    assert.equal(problemOf(answer).charged, 'no');
    assert.ok(challengeOf(answer.json.result), 'the right offer comes with the refusal');
    assert.equal(own.calls(), runs);
    const right = await moves(CENT, at, () =>
      call(at.own.url, { token: at.own.token, name: 'get_a', args: { x: 1 }, meta: meta(payment) }),
    );
    assert.equal(textOf(right), 'ran get_a', 'and the payment is still good for its own call');
  });

  test('paid by one principal, used by another', async () => {
    const at = builtin;
    const payment = await buy(at.own, 'get_a', { mine: 1 });
    const runs = own.calls();
    const answer = await moves(0n, at, () =>
      call(at.bob.url, {
        token: at.bob.token,
        name: 'get_a',
        args: { mine: 1 },
        meta: meta(payment),
      }),
    );
    assert.equal(problemOf(answer)?.code, 'PAY-006');
    assert.equal(own.calls(), runs);
  });

  test('paid at one gateway, used at another', async () => {
    const payment = await buy(builtin.own, 'get_a', { elsewhere: 1 });
    const answer = await moves(0n, remote, () =>
      call(remote.own.url, {
        token: remote.own.token,
        name: 'get_a',
        args: { elsewhere: 1 },
        meta: meta(payment),
      }),
    );
    assert.equal(problemOf(answer)?.code, 'PAY-005', answer.text);
  });

  test('a nonce that was spent elsewhere on the chain', async () => {
    const at = builtin;
    const payment = await buy(at.own, 'get_a', { spent: 1 });
    await chain.settle(payment.payload);
    at.around += CENT;
    const runs = own.calls();
    const answer = await moves(0n, at, () =>
      call(at.own.url, {
        token: at.own.token,
        name: 'get_a',
        args: { spent: 1 },
        meta: meta(payment),
      }),
    );
    assert.equal(problemOf(answer)?.code, 'PAY-008', answer.text);
    assert.equal(own.calls(), runs);
  });

  test('a tool that fails costs nothing when it runs first', async () => {
    const at = builtin;
    const payment = await buy(at.own, 'get_late', { fails: 1 });
    own.respond(() => '{"content":[{"type":"text","text":"no luck"}],"isError":true}');
    const answer = await moves(0n, at, () =>
      call(at.own.url, {
        token: at.own.token,
        name: 'get_late',
        args: { fails: 1 },
        meta: meta(payment),
      }),
    );
    own.respond();
    assert.equal(textOf(answer), 'no luck');
    assert.equal(answer.json.result._meta['countersign/charged'], 'no');
    const { from, nonce } = payment.payload.authorization;
    assert.equal(await chain.authorizationState(from, nonce), false);
  });

  test('a tool that fails after it was paid says so', async () => {
    const at = builtin;
    const payment = await buy(at.own, 'get_a', { fails: 2 });
    own.respond(() => '{"content":[{"type":"text","text":"no luck"}],"isError":true}');
    const answer = await moves(CENT, at, () =>
      call(at.own.url, {
        token: at.own.token,
        name: 'get_a',
        args: { fails: 2 },
        meta: meta(payment),
      }),
    );
    own.respond();
    assert.equal(answer.json.result._meta['countersign/charged'], 'yes', answer.text);
    const { refunds_due } = await at.gateway.cli('status');
    assert.ok(refunds_due >= 1, 'and the operator sees what is to be given back');
  });
});

describe('what is no payment', () => {
  const at = () => builtin;
  const now = () => Math.floor(Date.now() / 1000);

  // Each case makes a payment from the challenge; its code; whether it is asked to pay again.
  const signed = async (challenge, changes = {}, accepted = {}) => {
    const offer = challenge.accepts[0];
    return {
      x402Version: 2,
      resource: challenge.resource,
      accepted: { ...offer, ...accepted },
      payload: await signTransfer(chain.payer.key, {
        to: offer.payTo,
        value: offer.amount,
        validBefore: now() + 60,
        ...changes,
      }),
      extensions: challenge.extensions,
    };
  };
  const edited = (challenge, text) =>
    JSON.parse(JSON.stringify(challenge).replaceAll(challenge.accepts[0].extra.challenge, text));
  const other = '0x70997970C51812dc3A010C7d01b50e0d17dc79C8';

  const cases = {
    'a unit more': ['PAY-004', (c) => signed(c, { value: 10_001 })],
    'a unit less': ['PAY-004', (c) => signed(c, { value: 9_999 })],
    nothing: ['PAY-004', (c) => signed(c, { value: 0 })],
    'a thousand times as much': ['PAY-004', (c) => signed(c, { value: 10_000_000 })],
    'less, and the offer says so too': ['PAY-004', (c) => signed(c, { value: 1 }, { amount: '1' })],
    'more, and the offer says so too': [
      'PAY-004',
      (c) => signed(c, { value: 20_000 }, { amount: '20000' }),
    ],
    'to somebody else': ['PAY-005', (c) => signed(c, { to: other })],
    'to somebody else, and the offer says so too': [
      'PAY-005',
      (c) => signed(c, { to: other }, { payTo: other }),
    ],
    'on another network': ['PAY-005', (c) => signed(c, {}, { network: 'eip155:8453' })],
    'in another token': ['PAY-005', (c) => signed(c, {}, { asset: other })],
    'another scheme': ['PAY-005', (c) => signed(c, {}, { scheme: 'upto' })],
    'a longer time than we asked for': [
      'PAY-005',
      (c) => signed(c, {}, { maxTimeoutSeconds: 3600 }),
    ],
    'another flow than ours': [
      'PAY-005',
      (c) => signed(c, {}, { extra: { ...c.accepts[0].extra, paymentFlow: 'authorization' } }),
    ],
    'a member of extra that is not ours': [
      'PAY-005',
      (c) => signed(c, {}, { extra: { ...c.accepts[0].extra, assetTransferMethod: 'permit2' } }),
    ],
    expired: ['PAY-007', (c) => signed(c, { validBefore: now() - 1 })],
    'about to expire': ['PAY-007', (c) => signed(c, { validBefore: now() + 3 })],
    'not valid yet': ['PAY-007', (c) => signed(c, { validAfter: now() + 30 })],
    'valid for a year': ['PAY-007', (c) => signed(c, { validBefore: now() + 365 * 86_400 })],
    'valid for ever': ['PAY-007', (c) => signed(c, { validBefore: (1n << 63n) - 1n })],
    'without the challenge': [
      'PAY-006',
      (c) => {
        const { challenge: _, ...extra } = c.accepts[0].extra;
        return signed({ ...c, extensions: undefined }, {}, { extra });
      },
    ],
    'with a made-up challenge': ['PAY-006', (c) => signed(edited(c, 'ab'.repeat(32)))],
    'with a challenge changed in one place': [
      'PAY-006',
      (c) => signed({ ...c, extensions: edited(c, 'ab'.repeat(32)).extensions }),
    ],
    'signed by somebody else': [
      'PAY-003',
      async (c) => {
        const payment = await signed(c);
        const foreign = await signTransfer(chain.merchant.key, {
          to: c.accepts[0].payTo,
          value: 10_000,
        });
        return { ...payment, payload: { ...payment.payload, signature: foreign.signature } };
      },
    ],
    'signed for another chain': [
      'PAY-003',
      (c) => signed(c, { domain: { ...usdcDomain, chainId: 8453 } }),
    ],
    'changed after it was signed': [
      'PAY-003',
      async (c) => {
        const payment = await signed(c);
        payment.payload.authorization.nonce = `0x${'5'.repeat(64)}`;
        return payment;
      },
    ],
    'of version 1': ['PAY-019', async (c) => ({ ...(await signed(c)), x402Version: 1 })],
    'no object': ['PAY-002', () => 7],
    'half of it': ['PAY-002', async (c) => ({ ...(await signed(c)), payload: {} })],
    'an empty text': ['PAY-002', () => ''],
  };

  let n = 0;
  for (const [what, [code, make]] of Object.entries(cases)) {
    test(what, async () => {
      const { url, token } = at().own;
      const args = { case: ++n };
      const asked = await call(url, { token, name: 'get_a', args });
      const payment = await make(challengeOf(asked.json.result));
      const runs = own.calls();
      const answer = await moves(0n, at(), () =>
        call(url, { token, name: 'get_a', args, meta: { 'x402/payment': payment } }),
      );
      const problem = problemOf(answer);
      assert.equal(problem?.code, code, answer.text.slice(0, 1500));
      assert.equal(problem.charged, 'no');
      assert.equal(own.calls(), runs, 'nothing ran');
      if (problem.status === 402) {
        assert.equal(problem.proofs.payment, 'refused', JSON.stringify(problem));
        const offer = challengeOf(answer.json.result)?.accepts[0];
        assert.equal(offer?.amount, '10000', 'the right offer comes with the refusal');
      }
      const nonce = payment?.payload?.authorization?.nonce;
      if (nonce) assert.equal(await chain.authorizationState(chain.payer.address, nonce), false);
    });
  }

  test('two payments that differ', async () => {
    const { url, token } = at().own;
    const args = { two: 'payments' };
    const challenge = challengeOf((await call(url, { token, name: 'get_a', args })).json.result);
    const [one, two] = [await signed(challenge), await signed(challenge)];
    const answer = await moves(0n, at(), () =>
      call(url, {
        token,
        name: 'get_a',
        args,
        meta: { 'x402/payment': one },
        headers: { 'payment-signature': Buffer.from(JSON.stringify(two)).toString('base64') },
      }),
    );
    assert.equal(problemOf(answer)?.code, 'REQ-013');
    const same = await moves(CENT, at(), () =>
      call(url, {
        token,
        name: 'get_a',
        args,
        meta: { 'x402/payment': one },
        headers: { 'payment-signature': Buffer.from(JSON.stringify(one)).toString('base64') },
      }),
    );
    assert.equal(textOf(same), 'ran get_a', 'the same one twice is one');
  });

  test('a payment in the header that is no base64', async () => {
    const { url, token } = at().own;
    const answer = await post(url, callOf('get_a'), {
      ...bearer(token),
      'payment-signature': '%%%',
    });
    assert.equal(answer.status, 400);
    assert.equal(problemOf(answer)?.code, 'PAY-002');
  });
});

describe('two rails in one challenge', () => {
  test('inside MCP and over HTTP', async () => {
    const { url, token } = builtin.main;
    const inMcp = await call(url, { token, name: 'get-sum', args: { a: 1, b: 1 } });
    const challenge = challengeOf(inMcp.json.result);
    assert.equal(challenge.accepts[0].network, NETWORK);
    assert.equal(challenge.accepts[0].asset, USDC);
    assert.deepEqual(inMcp.json.result._meta['x402/error'].accepts, challenge.accepts);
    const [offer] = inMcp.json.result._meta['ai.bolthub/payment'].offers;
    assert.equal(offer.amount, 16);
    assert.match(offer.invoice, /^lnbcrt/);

    const overHttp = await post(url, callOf('get-sum', { a: 1, b: 1 }), {
      ...bearer(token),
      accept: '*/*',
    });
    assert.equal(overHttp.status, 402);
    const required = decodeHeader(overHttp.headers.get('payment-required'));
    assert.deepEqual(required.accepts, challenge.accepts, 'asking again shows the same offer');
    const line = overHttp.headers.get('www-authenticate');
    assert.match(
      line,
      /^L402 macaroon="([^"]+)", invoice="(lnbcrt[^"]+)", version="0", token="\1"$/,
    );
    assert.ok(line.includes(offer.invoice), 'and the same invoice');
  });

  test('either pays, and only the one that was used', async () => {
    const { url, token } = builtin.main;
    const args = { a: 20, b: 22 };
    const asked = await call(url, { token, name: 'get-sum', args });
    const [wallet] = [await sandbox.balances()];
    const proof = await buyL402(asked, sandbox.pay);
    const byLightning = await moves(0n, builtin, () =>
      withClient(legacyClient(url, { token }), (client) =>
        client.callTool({ name: 'get-sum', arguments: args, _meta: l402Meta(proof) }),
      ),
    );
    assert.match(textOf(byLightning), /42/);
    assert.equal(wallet.wallet_msat - (await sandbox.balances()).wallet_msat, 16_000);

    const byChain = await withClient(legacyClient(url, { token }), (client) =>
      moves(CENT, builtin, () =>
        callPaid(client, chain.payer.key, { name: 'get-sum', arguments: { a: 40, b: 2 } }),
      ),
    );
    assert.match(textOf(byChain.result), /42/);
    assert.equal(wallet.wallet_msat - (await sandbox.balances()).wallet_msat, 16_000);
  });

  test('both at once are refused, and neither is spent', async () => {
    const { url, token } = builtin.main;
    const args = { a: 1, b: 41 };
    const asked = await call(url, { token, name: 'get-sum', args });
    const proof = await buyL402(asked, sandbox.pay);
    const payment = await payer(chain.payer.key).createPaymentPayload(
      challengeOf(asked.json.result),
    );
    const both = await moves(0n, builtin, () =>
      call(url, {
        token,
        name: 'get-sum',
        args,
        meta: { 'x402/payment': payment, ...l402Meta(proof) },
      }),
    );
    assert.equal(problemOf(both).code, 'REQ-013', both.text);
    await withClient(legacyClient(url, { token }), async (client) => {
      const result = await moves(0n, builtin, () =>
        client.callTool({ name: 'get-sum', arguments: args, _meta: l402Meta(proof) }),
      );
      assert.match(textOf(result), /42/);
    });
  });
});

describe('a facilitator that cannot be trusted', () => {
  const buy = async (args) => {
    const { url, token } = remote.own;
    const asked = await call(url, { token, name: 'get_a', args });
    const payment = await payer(chain.payer.key).createPaymentPayload(
      challengeOf(asked.json.result),
    );
    return () => call(url, { token, name: 'get_a', args, meta: { 'x402/payment': payment } });
  };
  after(() => reference.misbehave());

  test('is down: refused, nothing charged, later good', async () => {
    const pay = await buy({ down: 1 });
    reference.misbehave(() => ({ status: 503, body: {} }));
    const runs = own.calls();
    const refused = await moves(0n, remote, pay);
    assert.equal(problemOf(refused).code, 'PAY-011', refused.text);
    assert.equal(problemOf(refused).charged, 'no');
    assert.equal(own.calls(), runs);
    reference.misbehave();
    assert.equal(textOf(await moves(CENT, remote, pay)), 'ran get_a');
  });

  test('settles and does not say so: unknown, never asked to pay again', async () => {
    const pay = await buy({ silent: 1 });
    reference.misbehave((endpoint, body) =>
      endpoint === 'settle' ? { status: 500, body: {} } : { status: 200, body },
    );
    const runs = own.calls();
    const answer = await moves(CENT, remote, pay);
    const again = await moves(0n, remote, pay);
    reference.misbehave();
    for (const { json, text } of [answer, again]) {
      const problem = problemOf({ json });
      assert.equal(problem.code, 'PAY-010', text);
      assert.equal(problem.charged, 'unknown');
      assert.equal(problem.proofs.payment, 'pending');
      assert.equal(challengeOf(json.result), undefined, 'no new challenge');
    }
    assert.equal(own.calls(), runs, 'and nothing runs on a guess');
  });

  test('says that somebody else paid: not believed', async () => {
    const pay = await buy({ lies: 1 });
    reference.misbehave((endpoint, body) => ({
      status: 200,
      body: { ...body, payer: '0x70997970C51812dc3A010C7d01b50e0d17dc79C8' },
    }));
    const runs = own.calls();
    const answer = await moves(0n, remote, pay);
    reference.misbehave();
    assert.equal(problemOf(answer)?.code, 'PAY-011', answer.text);
    assert.equal(own.calls(), runs);
  });
});

describe('a facilitator whose word a node checks', () => {
  after(() => reference.misbehave());

  test('it dies after it sent the payment: the chain says that it is settled, and the call runs once', async () => {
    const { url, token } = checked.own;
    const args = { dies: 1 };
    const asked = await call(url, { token, name: 'get_a', args });
    const payment = await payer(chain.payer.key).createPaymentPayload(
      challengeOf(asked.json.result),
    );
    const pay = () => call(url, { token, name: 'get_a', args, meta: { 'x402/payment': payment } });
    let isDead = false;
    reference.misbehave((endpoint, body) => {
      isDead ||= endpoint === 'settle';
      return isDead ? { status: 503, body: {} } : { status: 200, body };
    });
    const runs = own.calls();
    const answer = await moves(CENT, checked, pay);
    assert.equal(textOf(answer), 'ran get_a', answer.text);
    assert.ok(isDead, 'it was asked to settle');
    await settledTo(checked, answer.json.result._meta['x402/payment-response'], payment);
    const again = await moves(0n, checked, pay);
    assert.equal(textOf(again), 'ran get_a', again.text);
    assert.ok(again.json.result._meta['countersign/replay-of'], again.text);
    assert.equal(own.calls() - runs, 1);
  });

  test('it is shown who asks; nobody else is', async () => {
    reference.misbehave();
    const { url, token } = checked.own;
    const upstream = own.seen.length;
    const { result, payment } = await withClient(legacyClient(url, { token }), (client) =>
      callPaid(client, chain.payer.key, { name: 'get_a', arguments: { shown: 1 } }),
    );
    assert.equal(textOf(result), 'ran get_a');
    const asked = askedAbout(payment);
    assert.deepEqual(
      asked.map(({ endpoint, authorization }) => [endpoint, authorization]),
      ['verify', 'settle'].map((endpoint) => [endpoint, `Bearer ${SHOWN}`]),
    );
    const said = JSON.stringify([result, own.seen.slice(upstream)]) + checked.gateway.stderr();
    assert.ok(!said.includes(SHOWN));
    const { stdout } = await checked.gateway.cliRaw('doctor');
    assert.match(stdout, /x402 USDC/);
    const doctors = reference.asked.findLast(({ endpoint }) => endpoint === 'supported');
    assert.equal(doctors.authorization, `Bearer ${SHOWN}`);
    assert.ok(!stdout.includes(SHOWN));
  });
});

test('a settlement that stays unmined: unknown, until the request is repeated', async () => {
  const at = builtin;
  const { url, token } = at.own;
  const args = { slow: 'block' };
  const asked = await call(url, { token, name: 'get_a', args });
  const payment = await payer(chain.payer.key).createPaymentPayload(challengeOf(asked.json.result));
  const repeat = () => call(url, { token, name: 'get_a', args, meta: { 'x402/payment': payment } });
  const runs = own.calls();
  await chain.automine(false);
  try {
    const waiting = await moves(0n, at, repeat);
    assert.equal(problemOf(waiting)?.code, 'PAY-010', waiting.text);
    assert.equal(problemOf(waiting).charged, 'unknown');
    const again = await moves(0n, at, () => Promise.race([repeat(), timeout(2_000)]));
    if (again) assert.equal(challengeOf(again.json.result ?? {}), undefined, again.text);
    assert.equal(own.calls(), runs);
  } finally {
    await chain.automine(true);
    await chain.mine();
  }
  const settled = await moves(0n, at, () =>
    until(
      'the same request gets its result',
      async () => {
        const answer = await repeat();
        assert.equal(challengeOf(answer.json.result ?? {}), undefined, answer.text);
        const isUnderway = ['PAY-010', 'SYS-005'].includes(problemOf(answer)?.code);
        return isUnderway ? undefined : answer;
      },
      { every_ms: 500 },
    ),
  );
  assert.equal(textOf(settled), 'ran get_a', settled.text);
  assert.equal(own.calls() - runs, 1);
  const { from, nonce } = payment.payload.authorization;
  const used = (await chain.events('AuthorizationUsed')).filter(
    (event) => event.args.nonce === nonce,
  );
  assert.deepEqual(
    used.map((event) => event.args.authorizer),
    [from],
    'settled once',
  );
});

test('what the ledger says came in is what the chain moved to the payee', async () => {
  for (const { gateway, payTo, had, around } of [builtin, remote, checked]) {
    const { items } = await gateway.cli('ledger', 'balance');
    const usdc = (wanted, member) => {
      const found = items.filter((item) => item.account === wanted && /USDC$/.test(item[member]));
      const minor = found.map((item) => Math.round(Number.parseFloat(item[member]) * 1e6));
      return BigInt(minor.reduce((sum, one) => sum + one, 0));
    };
    // What came in is what the outside world, `funding`, gave; what nobody knows of is pending.
    const [came, pending] = [-usdc('funding', 'posted'), usdc('held', 'pending_in')];
    const moved = (await chain.balance(payTo)) - had - around;
    const said = `${payTo}: ${moved} moved, ${JSON.stringify(items)}`;
    assert.ok(came > 0n && came <= moved && moved <= came + pending, said);
    if (gateway === builtin.gateway) assert.equal(pending, 0n, said);
    assert.deepEqual((await gateway.cli('fsck')).findings, []);
  }
});

test('receipts verify with the public key alone', async () => {
  const {
    gateway,
    own: { url, token },
  } = builtin;
  const { result } = await withClient(legacyClient(url, { token }), (client) =>
    callPaid(client, chain.payer.key, { name: 'get_a', arguments: { for: 'a receipt' } }),
  );
  const file = `${gateway.dir}/receipt.jwt`;
  writeFileSync(file, receiptOf(result));
  const read = await gateway.cli('receipt', 'verify', file);
  assert.equal(
    JSON.stringify(read).includes(result._meta['x402/payment-response'].transaction),
    true,
  );
  writeFileSync(
    file,
    receiptOf(result).replace(/.$/, (last) => (last === 'A' ? 'B' : 'A')),
  );
  assert.notEqual((await gateway.cliRaw('receipt', 'verify', file)).code, 0);
  const log = await gateway.cliRaw('audit', 'verify');
  assert.equal(log.code, 0, log.stdout + log.stderr);
});
