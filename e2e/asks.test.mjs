// An agent asks, a person approves in the browser, the agent's retry is paid and runs: all of it
// real. The MCP server is the reference one, the money a token on a chain, the issuer an OpenID
// provider, the agent the TypeScript SDK, the page Chromium's.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { shot, signIn, startBrowser } from './lib/browser.mjs';
import { startChain } from './lib/chain.mjs';
import { startEverything } from './lib/everything.mjs';
import { Parts, assets, builtinFacilitator, facilitatorEnv } from './lib/gate.mjs';
import { startGateway } from './lib/gateway.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { legacyClient } from './lib/mcpclients.mjs';
import { freePort } from './lib/process.mjs';
import { receiptOf, verifyLog } from './lib/rig.mjs';
import { callPaid } from './lib/x402http.mjs';

const parts = new Parts();
let chain, issuer, gateway, browser, at, mcp;

before(() =>
  parts.starting(async () => {
    const [port, consolePort] = [await freePort(), await freePort()];
    at = `http://127.0.0.1:${consolePort}`;
    mcp = `http://127.0.0.1:${port}/everything/mcp`;
    const client = { id: 'countersign-console', secret: 'console-secret-1' };
    chain = await parts.keep('chain', startChain());
    const everything = await parts.keep('server', startEverything());
    const claims = (login) => ({ org_id: 'default', name: login, roles: login === 'ada' ? ['approver'] : [] });
    issuer = await parts.keep('issuer', startIssuer({
      resources: [mcp],
      claims: ({ subject }) => claims(subject),
      consoles: [{ ...client, redirectUri: `${at}/sign-in/callback` }],
      people: claims,
    }));
    const config = {
      listen: `127.0.0.1:${port}`,
      data_dir: './data',
      issuers: [{
        issuer: issuer.url, tenant_claim: 'org_id', roles_claim: 'roles',
        allow_private_network: true, human_claim: 'auth_time',
      }],
      assets,
      rails: { x402: { pay_to: chain.merchant.address, facilitator: builtinFacilitator(chain) } },
      servers: {
        everything: {
          upstream: everything.url,
          tools: { echo: { price: '0.01 USDC', intent: 'read' } },
        },
      },
      console: {
        listen: `127.0.0.1:${consolePort}`,
        sign_in: {
          issuer: issuer.url, client_id: client.id, client_secret: 'env:CONSOLE_SECRET',
          tenant_claim: 'org_id', allow_private_network: true,
        },
      },
    };
    const env = { CONSOLE_SECRET: client.secret, ...facilitatorEnv(chain) };
    gateway = await parts.keep('gateway', startGateway({ config: () => config, port, env }));
    browser = await parts.keep('browser', startBrowser());
  }),
);
after(() => parts.stop());

test('the agent asks, a person approves in the browser, the retry is paid and runs', async () => {
  const agent = await legacyClient(mcp, { token: await issuer.userToken('carol', mcp) });
  try {
    const call = { name: 'echo', arguments: { message: 'all real' } };
    const asked = (await agent.callTool(call))._meta['countersign/refusal'];
    assert.deepEqual([asked.code, asked.charged], ['CNS-001', 'no']);
    const earned = await chain.balance(chain.merchant.address);

    const { page } = await browser.person();
    await signIn(page, asked.next.url, 'ada');
    for (const said of ['everything/echo', '0.01 USDC', 'all real', 'carol']) {
      await page.getByText(said).first().waitFor();
    }
    await shot(page, 'asks');
    await page.click('#approve');
    await page.getByText('The agent can make this very call now').waitFor();

    const { result } = await callPaid(agent, chain.payer.key, call);
    assert.equal(result.content[0].text, 'Echo: all real');
    const receipt = receiptOf(result);
    assert.deepEqual(receipt.amount, { asset: 'USDC', minor: '10000' });
    assert.equal((await chain.balance(chain.merchant.address)) - earned, 10_000n);

    await page.reload();
    await page.getByText('approved and used').waitFor();
    const again = (await agent.callTool({ ...call, arguments: { message: 'another' } }));
    assert.equal(again._meta['countersign/refusal'].code, 'CNS-001', 'one yes is one call');
    const { code, findings } = await verifyLog(gateway);
    assert.deepEqual([code, findings], [0, []]);
  } finally {
    await agent.close();
  }
});
