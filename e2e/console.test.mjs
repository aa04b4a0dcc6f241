// The console as people use it: Chromium, a real issuer, an agent with the TypeScript SDK.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { appendFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { privateKeyToAccount } from 'viem/accounts';

import { atIssuer, shot, signIn, startBrowser, tabTo, violations } from './lib/browser.mjs';
import { Parts, l402Meta } from './lib/gate.mjs';
import { startIssuer } from './lib/issuer.mjs';
import { legacyClient } from './lib/mcpclients.mjs';
import { freePort, until } from './lib/process.mjs';
import { MCP_ACCEPT, callTool, lightningOffer, startBefore, startParts } from './lib/rig.mjs';
import { callPaid } from './lib/x402http.mjs';

const KEY = `0x${'11'.repeat(32)}`;
const PEOPLE = {
  ada: { name: 'Ada Approver', roles: ['approver', 'removals'] },
  ben: { name: 'Ben Approver', roles: ['approver', 'removals'] },
  gone: { name: 'Gone Approver', roles: ['approver'] },
  ops: { name: 'Olu Operator', roles: ['operator'] },
  aud: { name: 'Audrey Auditor', roles: ['auditor'] },
  root: { name: 'Adnan Admin', roles: ['admin'] },
  'ops-program': { roles: ['operator', 'approver'] },
  carol: { name: 'Carol', roles: ['research', 'finance'] },
  empty: { name: 'Alone', roles: ['admin'], org_id: 'nobody-calls-here' },
  far: { name: 'Faraway', roles: ['approver'], org_id: 'elsewhere' },
};

/** How fresh a sign-in must be for a yes to more than ten cents, in seconds. */
const FRESH_S = 8;

const PROGRAM = { id: 'ops-program', secret: 'ops-program-secret' };

const TWO_PEOPLE = `
@id("delete.two")
@reason("TWO_PEOPLE")
@obligation("m_of_n")
@params("{\\"m\\":2,\\"roles\\":[\\"removals\\"]}")
forbid (principal, action == Action::"delete", resource)
unless { context.fulfilled.contains("m_of_n") };
`;

const parts = new Parts();
let sandbox, issuer, gateway, browser, at, mcp, bundle;

before(() =>
  parts.starting(async () => {
    const [port, consolePort] = [await freePort(), await freePort()];
    at = `http://127.0.0.1:${consolePort}`;
    mcp = (server) => `http://127.0.0.1:${port}/${server}/mcp`;
    const client = { id: 'countersign-console', secret: 'console-secret-1' };
    // The built-in bundle, and one rule more: what deletes wants two people
    // of one role.
    bundle = mkdtempSync(path.join(os.tmpdir(), 'countersign-bundle-'));
    cpSync(fileURLToPath(new URL('../crates/gateway/policy/', import.meta.url)), bundle, { recursive: true });
    appendFileSync(path.join(bundle, 'policies.cedar'), TWO_PEOPLE);
    sandbox = await parts.keep('sandbox', startParts());
    issuer = await parts.keep('issuer', startIssuer({
      resources: [mcp('weather'), mcp('archive'), `${at}/api`],
      machines: [PROGRAM],
      claims: ({ subject }) => ({ org_id: 'default', roles: [], ...PEOPLE[subject] }),
      consoles: [{ ...client, redirectUri: `${at}/sign-in/callback` }],
      people: (login) => ({ org_id: 'default', name: login, ...PEOPLE[login] }),
    }));
    gateway = await parts.keep('gateway', startBefore(sandbox, {
      issuers: [{ issuer: issuer.url, tenant_claim: 'org_id', roles_claim: 'roles' }],
      servers: {
        weather: {
          tools: {
            get_forecast: { price: [{ tenant: 'elsewhere', price: '0.07 USDC' }, { price: '0.01 USDC' }] },
            delete_report: { price: '0.02 USDC', consent: 'none' },
            get_report: { price: 'free', consent: 'none' },
            get_broken: { price: 'free', consent: 'none' },
            get_slow: { price: '0.03 USDC', consent: 'none', deadline: '1s' },
            send_email: { price: [{ tenant: 'elsewhere', price: '0.05 USDC' }] },
          },
        },
        archive: {
          tools: {
            delete_report: { price: '0.02 USDC' },
            get_report: { price: '30 sat', uses: 3, consent: 'none' },
          },
        },
      },
      policy: { dir: bundle },
      budgets: [
        { name: 'everybody', limit: '5 USD', window: '24h' },
        { name: 'noted', limit: '4 USD', window: { every: 'month' }, warn: 1 },
      ],
      console: {
        listen: `127.0.0.1:${consolePort}`,
        api_clients: [PROGRAM.id],
        step_up: { above: '0.1 USD', max_age: `${FRESH_S}s` },
        sign_in: {
          issuer: issuer.url,
          client_id: client.id,
          client_secret: 'env:CONSOLE_SECRET',
          tenant_claim: 'org_id',
          allow_private_network: true,
        },
      },
    }, { port, env: { CONSOLE_SECRET: client.secret } }));
    browser = await parts.keep('browser', startBrowser());
  }),
);
after(async () => {
  await parts.stop();
  if (bundle) rmSync(bundle, { recursive: true });
});

/** An agent that acts for `login`: the TypeScript SDK with their token. */
const agentOf = async (login, server = 'weather') =>
  legacyClient(mcp(server), { token: await issuer.userToken(login, mcp(server)) });

const refusalOf = (result) => result._meta?.['countersign/refusal'];
const textOf = (result) => result.content.map((part) => part.text).join('\n');

const people = new Map();
/** A person at the console, signed in once. */
async function person(login) {
  if (!people.has(login)) {
    const { page } = await browser.person();
    await signIn(page, `${at}/`, login);
    people.set(login, page);
  }
  return people.get(login);
}

/** No error in the browser's console, no finding of axe, in light and dark, narrow and wide. */
async function isSound(page, name) {
  const found = [];
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [320, 1280]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      found.push(...(await violations(page)).map((what) => `${colorScheme} ${width}: ${what}`));
      const overflow = await page.evaluate(
        () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
      );
      if (overflow > 0) found.push(`${width}: the page scrolls sideways by ${overflow}`);
      await shot(page, `${name}-${colorScheme}-${width}`);
    }
  }
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize({ width: 1280, height: 900 });
  assert.deepEqual(found, []);
}

describe('what the binary serves', () => {
  test('scripts and styles of others are those of their npm packages', async () => {
    const require = createRequire(import.meta.url);
    const packages = {
      'htmx.min.js': require.resolve('htmx.org/dist/htmx.min.js'),
      'sse.min.js': fileURLToPath(new URL('node_modules/htmx-ext-sse/dist/sse.min.js', import.meta.url)),
      'uPlot.iife.min.js': fileURLToPath(new URL('node_modules/uplot/dist/uPlot.iife.min.js', import.meta.url)),
      'uPlot.min.css': fileURLToPath(new URL('node_modules/uplot/dist/uPlot.min.css', import.meta.url)),
    };
    for (const [name, file] of Object.entries(packages)) {
      const served = await (await fetch(`${at}/assets/${name}`)).text();
      assert.equal(served, readFileSync(file, 'utf8'), name);
    }
  });

  test('headers forbid frames, inline scripts and foreign sources', async () => {
    for (const path of ['/', '/signed-out', '/nowhere', '/assets/console.css']) {
      const { headers } = await fetch(`${at}${path}`, { redirect: 'manual' });
      const policy = headers.get('content-security-policy');
      assert.match(policy, /default-src 'none'.*frame-ancestors 'none'/, path);
      assert.doesNotMatch(policy, /unsafe/);
      assert.equal(headers.get('x-frame-options'), 'DENY');
    }
  });
});

describe('signing in', () => {
  test('by code, PKCE and nonce; cookies of this host alone; out again', async () => {
    const { page, context } = await browser.person();
    await signIn(page, `${at}/approvals/none?x=1`, 'aud');
    assert.equal(new URL(page.url()).pathname, '/approvals/none', 'goes on where it was begun');
    await page.goto(`${at}/`);
    await page.getByText('Audrey Auditor').waitFor();
    const [cookie] = (await context.cookies(at)).filter(({ name }) => name === '__Host-countersign-session');
    assert.deepEqual(
      [cookie.httpOnly, cookie.secure, cookie.sameSite, cookie.path],
      [true, true, 'Lax', '/'],
    );
    await page.click('text=Sign out');
    await page.getByText('You are signed out').waitFor();
    const again = await fetch(`${at}/`, {
      redirect: 'manual',
      headers: { cookie: `${cookie.name}=${cookie.value}` },
    });
    assert.equal(again.status, 303, 'the session is over on the server too');
  });

  test('an answer to another sign-in, or to none, signs nobody in', async () => {
    const begun = await fetch(`${at}/sign-in`, { redirect: 'manual' });
    const to = new URL(begun.headers.get('location'));
    assert.equal(to.origin, issuer.url);
    assert.equal(to.searchParams.get('code_challenge_method'), 'S256');
    const cookie = begun.headers.getSetCookie()[0].split(';')[0];
    const state = to.searchParams.get('state');
    const answer = (query, headers = {}) => fetch(`${at}/sign-in/callback?${query}`, { headers, redirect: 'manual' });
    for (const [what, query, headers] of [
      ['no cookie', `state=${state}&code=x&iss=${issuer.url}`],
      ['another state', `state=${state.slice(0, -1)}x&code=x&iss=${issuer.url}`, { cookie }],
      ['no state', `code=x&iss=${issuer.url}`, { cookie }],
      ['another issuer', `state=${state}&code=x&iss=https://evil.example`, { cookie }],
      ['no issuer', `state=${state}&code=x`, { cookie }],
      ['a made-up code', `state=${state}&code=x&iss=${issuer.url}`, { cookie }],
      ['two codes', `state=${state}&code=x&code=y&iss=${issuer.url}`, { cookie }],
    ]) {
      const { status, headers: got } = await answer(query, headers);
      assert.equal(status, 403, what);
      assert.deepEqual(got.getSetCookie(), [], what);
    }
  });

  test('an agent\'s token opens no page', async () => {
    const token = await issuer.userToken('ada', mcp('weather'));
    const answer = await fetch(`${at}/`, { headers: { authorization: `Bearer ${token}` }, redirect: 'manual' });
    assert.equal(answer.status, 303);
  });
});

describe('a person answers an agent', () => {
  test('the agent asks, a person approves once in the browser, the retry is paid and runs', async () => {
    const agent = await agentOf('carol');
    const call = { name: 'get_forecast', arguments: { city: 'Oslo' } };
    const asked = refusalOf(await agent.callTool(call));
    assert.equal(asked.code, 'CNS-001');
    assert.match(asked.next.url, new RegExp(`^${at}/approvals/appr_`));
    const page = await person('ada');
    await page.goto(asked.next.url);
    for (const said of ['web-agent', 'weather/get_forecast', '0.01 USDC', 'Oslo', 'carol', 'everybody']) {
      await page.getByText(said).first().waitFor();
    }
    const risk = page.locator('#risk');
    await risk.getByText(/risk, [1-9][0-9]*$/).waitFor();
    for (const said of ['+10 This agent has never paid this payee PAYEE_FIRST', '+5 The agent does not say what the call is for INTENT_UNDECLARED']) {
      await risk.getByRole('listitem').filter({ hasText: said }).waitFor();
    }
    await isSound(page, 'request');
    await page.click('#approve');
    await page.getByText('The agent can make this very call now').waitFor();
    const { result } = await callPaid(agent, KEY, call);
    assert.match(textOf(result), /temperature/);
    await page.reload();
    await page.getByText('approved and used').waitFor();
    const next = refusalOf(await agent.callTool({ ...call, arguments: { city: 'Bergen' } }));
    await page.goto(next.next.url);
    await page.getByRole('row', { name: /city.*Bergen.*changed/ }).waitFor();
    await agent.close();
  });

  test('as a grant with caps: later calls are not asked for', async () => {
    const agent = await agentOf('dora');
    const asked = refusalOf(await agent.callTool({ name: 'get_forecast', arguments: { city: 'Rome' } }));
    const page = await person('ada');
    await page.goto(asked.next.url);
    await page.fill('#total', '0.02 USD');
    await page.selectOption('#expires', '1h');
    await page.click('#grant');
    await page.getByText('Grant made').waitFor();
    for (const city of ['Rome', 'Pisa']) {
      const { result } = await callPaid(agent, KEY, { name: 'get_forecast', arguments: { city } });
      assert.match(textOf(result), /temperature/);
    }
    const over = refusalOf(await agent.callTool({ name: 'get_forecast', arguments: { city: 'Bari' } }));
    assert.equal(over.code, 'CNS-006', 'the cap that was typed holds');
    await agent.close();
  });

  test('no, with a reason that reaches the agent', async () => {
    const agent = await agentOf('emil');
    const call = { name: 'get_forecast', arguments: { city: 'Nowhere' } };
    const asked = refusalOf(await agent.callTool(call));
    const page = await person('ada');
    await page.goto(asked.next.url);
    await page.fill('#reason', 'there is no such city');
    await page.click('#deny');
    await page.getByText('The agent is told.').waitFor();
    const told = await agent.callTool(call);
    assert.equal(refusalOf(told).code, 'CNS-009');
    assert.match(textOf(told), /there is no such city/);
    await agent.close();
  });

  test('two people for what deletes: the same one twice and the one it is for do not count', async () => {
    const agent = await agentOf('nina');
    const call = { name: 'delete_report', arguments: {} };
    const asked = refusalOf(await agent.callTool(call));
    assert.equal(asked.code, 'CNS-008', JSON.stringify(asked));
    const [ada, ben, own] = [await person('ada'), await person('ben'), await person('nina')];
    const other = await person('root');
    await other.goto(asked.next.url);
    await other.getByText('a role that this request wants is missing').waitFor();
    await own.goto(asked.next.url);
    await own.getByText('Your yes does not count here').waitFor();
    await ada.goto(asked.next.url);
    await ada.click('#approve');
    await ada.getByText('1 of 2 people agreed').waitFor();
    await ada.getByText('this person has agreed already').waitFor();
    assert.equal(refusalOf(await agent.callTool(call)).code, 'CNS-008', 'one is not enough');
    await ben.goto(asked.next.url);
    await ben.click('#approve');
    await ben.getByText('The agent can make this very call now').waitFor();
    assert.match(textOf((await callPaid(agent, KEY, call)).result), /deleted/);
    await agent.close();
  });

  test('by the keyboard alone', async () => {
    const agent = await agentOf('finn');
    const call = { name: 'get_forecast', arguments: { city: 'Turku' } };
    await agent.callTool(call);
    const page = await person('ada');
    await page.goto(`${at}/`);
    await page.keyboard.press('j');
    await page.keyboard.press('a');
    await page.waitForURL(/#approve$/);
    await page.waitForFunction(() => document.activeElement.id === 'approve');
    await page.keyboard.press('Enter');
    await page.getByText('The agent can make this very call now').waitFor();
    assert.match(textOf((await callPaid(agent, KEY, call)).result), /temperature/);
    await agent.close();
  });

  test('by the keyboard alone: no, a grant, its end, and from page to page', async () => {
    const agent = await agentOf('fred');
    const forecast = (city) => ({ name: 'get_forecast', arguments: { city } });
    await agent.callTool(forecast('Rauma'));
    const page = await person('ada');
    await page.goto(`${at}/`);
    await page.keyboard.press('j');
    await page.keyboard.press('d');
    await page.waitForFunction(() => document.activeElement.id === 'reason');
    await page.keyboard.type('not today');
    await page.keyboard.press('Control+Enter');
    await page.getByText('The agent is told.').waitFor();
    const told = await agent.callTool(forecast('Rauma'));
    assert.deepEqual([refusalOf(told).code, /not today/.test(textOf(told))], ['CNS-009', true]);

    await agent.callTool(forecast('Pori'));
    await tabTo(page, 'nav a[href="/"]');
    await page.keyboard.press('Enter');
    await page.waitForURL(`${at}/`);
    await page.getByText('for fred').first().waitFor();
    await tabTo(page, '[data-row]');
    await page.keyboard.press('Enter');
    await page.waitForURL(/\/approvals\//);
    await tabTo(page, '#grant');
    await page.keyboard.press('Enter');
    await page.getByText('Grant made').waitFor();
    assert.match(textOf((await callPaid(agent, KEY, forecast('Pori'))).result), /temperature/);

    await tabTo(page, 'nav a[href="/grants"]');
    await page.keyboard.press('Enter');
    await page.waitForURL(`${at}/grants`);
    await tabTo(page, '#q');
    await page.keyboard.type('fred');
    await page.keyboard.press('Enter');
    await page.waitForURL(/q=fred/);
    await tabTo(page, 'button[aria-label^="Revoke"]');
    await page.keyboard.press('Enter');
    await page.getByRole('row', { name: /fred.*revoked/ }).waitFor();
    assert.equal(refusalOf(await agent.callTool(forecast('Kemi'))).code, 'CNS-003');

    await page.goto(`${at}/live`);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.activeElement.id === 'main');
    await page.keyboard.press('Tab');
    assert.ok(await page.evaluate(() => document.activeElement.closest('main')), 'past the navigation');
    await agent.close();
  });

  test('a yes to more than the threshold wants a fresh sign-in, and leads back', async () => {
    const begun = async (query) => {
      const { headers } = await fetch(`${at}/sign-in?to=%2F${query}`, { redirect: 'manual' });
      return new URL(headers.get('location')).searchParams.get('max_age');
    };
    assert.deepEqual([await begun(''), await begun('&step_up=1')], [null, `${FRESH_S}`]);
    const agent = await agentOf('stella');
    const call = { name: 'get_forecast', arguments: { city: 'Narva' } };
    const link = refusalOf(await agent.callTool(call)).next.url;
    const { page } = await browser.person();
    await signIn(page, link, 'ada');
    await page.waitForTimeout((FRESH_S + 1) * 1000);
    await page.reload();
    await page.getByText('asks you to sign in again').waitFor();
    await isSound(page, 'request-step-up');
    const grant = async () => {
      await page.fill('#total', '0.5 USD');
      await page.click('#grant');
    };
    await grant();
    await page.locator('input[name=login]').waitFor();
    assert.equal(refusalOf(await agent.callTool(call)).code, 'CNS-001', 'nothing was answered');
    await atIssuer(page, at, 'ada');
    assert.equal(page.url(), link);
    await grant();
    await page.getByText('Grant made').waitFor();
    assert.match(textOf((await callPaid(agent, KEY, call)).result), /temperature/);
    assert.deepEqual(page.problems.filter((text) => !/401/.test(text)), []);
    await page.context().close();
    await agent.close();
  });

  test('a grant that others must agree to: its page is sound, and the second yes makes it', async () => {
    const agent = await agentOf('nora', 'archive');
    const call = { name: 'delete_report', arguments: {} };
    const link = refusalOf(await agent.callTool(call)).next.url;
    const [ada, ben] = [await person('ada'), await person('ben')];
    await ada.goto(link);
    await ada.fill('#total', '0.06 USD');
    await ada.click('#grant');
    await ada.getByText('1 of 2 people agreed').waitFor();
    await ben.goto(link);
    await ben.getByText('The grant that was proposed').waitFor();
    await isSound(ben, 'request-proposed');
    await ben.click('#approve');
    await ben.getByText('Grant made').waitFor();
    await isSound(ben, 'request-answered');
    await agent.close();
  });

  test('the inbox shows a new request without a reload', async () => {
    const page = await person('ben');
    await page.goto(`${at}/`);
    await page.waitForTimeout(300);
    const agent = await agentOf('gina');
    await agent.callTool({ name: 'get_forecast', arguments: { city: 'Kiel' } });
    const card = page.getByRole('listitem').filter({ hasText: 'for gina' });
    await card.getByText(/risk, [1-9][0-9]*/).waitFor();
    await card.getByText(/^(This agent|The|What|Nobody)/).first().waitFor();
    await isSound(page, 'inbox');
    assert.deepEqual(page.problems, []);
    await agent.close();
  });
});

describe('who may not', () => {
  let link, agent;
  before(async () => {
    agent = await agentOf('hugo');
    const asked = refusalOf(await agent.callTool({ name: 'get_forecast', arguments: { city: 'Lund' } }));
    link = asked.next.url;
  });
  after(() => agent?.close());

  test('an auditor sees it and cannot answer; another tenant does not see it', async () => {
    const page = await person('aud');
    await page.goto(link);
    await page.getByText('your role does not answer it').waitFor();
    await isSound(page, 'request-seen');
    assert.equal(await page.locator('#approve').count(), 0);
    const far = await person('far');
    assert.equal((await far.goto(link)).status(), 404);
    const stranger = await person('zoe');
    assert.equal((await stranger.goto(link)).status(), 404, 'Bob opens the link of Hugo');
  });

  test('the person for whom it is asked may see and answer it', async () => {
    const page = await person('hugo');
    await page.goto(link);
    assert.equal(await page.locator('#approve').count(), 1);
  });

  test('opening it answers nothing; a form of another site, a stale one and a foreign role answer nothing', async () => {
    const page = await person('ada');
    await page.goto(link);
    const form = await page.evaluate(() => Object.fromEntries(new FormData(document.querySelector('form.once'))));
    const post = (fields, more = {}) =>
      page.context().request.post(`${link}/approve`, {
        form: fields,
        headers: { origin: at },
        maxRedirects: 0,
        ...more,
      });
    assert.equal((await post(form, { headers: { origin: 'https://evil.example' } })).status(), 403);
    assert.equal((await post(form, { headers: {} })).status(), 403, 'a browser says where a form comes from');
    const stale = await post({ ...form, form_key: 'x' });
    assert.equal(stale.status(), 403);
    assert.match(await stale.text(), /ADM-006/);
    assert.equal((await post({ ...form, form_key: '' })).status(), 403);
    assert.equal((await post({ ...form, content: '0'.repeat(64) })).status(), 403, 'not what was shown');
    const auditor = await person('aud');
    await auditor.goto(`${at}/`);
    const key = await auditor.locator('[name=form_key]').first().inputValue();
    const foreign = await auditor.context().request.post(`${link}/approve`, {
      form: { ...form, form_key: key },
      headers: { origin: at },
      maxRedirects: 0,
    });
    assert.equal(foreign.status(), 403);
    const { items } = await gateway.cli('approvals', 'list');
    assert.equal(items.find(({ id }) => link.endsWith(id)).status, 'pending');
    assert.equal((await post(form)).status(), 303, 'the form itself is good');
    assert.equal((await post(form)).status(), 409, 'once');
  });

  test('who was withdrawn meanwhile: their session is over, and their role answers nothing', async () => {
    const other = await agentOf('hedy');
    const asked = refusalOf(await other.callTool({ name: 'get_forecast', arguments: { city: 'Visby' } }));
    const id = asked.next.url.split('/').at(-1);
    const { page } = await browser.person();
    await signIn(page, asked.next.url, 'gone');
    await page.locator('#approve').waitFor();
    await gateway.cli('approvals', 'withdraw', '--issuer', issuer.url, 'gone');
    await page.click('#approve');
    await signIn(page, asked.next.url, 'gone');
    assert.equal((await page.goto(asked.next.url)).status(), 404, 'no role is left to them');
    const { items: before } = await gateway.cli('approvals', 'list');
    assert.equal(before.find((one) => one.id === id).status, 'pending');
    assert.deepEqual((await gateway.cli('approvals', 'withdrawn')).items.map(({ subject }) => subject), ['gone']);
    await gateway.cli('approvals', 'reinstate', '--issuer', issuer.url, 'gone');
    await page.goto(`${at}/`);
    await page.getByRole('button', { name: 'Sign out' }).click();
    await signIn(page, asked.next.url, 'gone');
    await page.click('#approve');
    await page.getByText('The agent can make this very call now').waitFor();
    await other.close();
  });

  test('script in names and arguments stays text', async () => {
    const evil = '"><img src=x onerror=alert(1)><script>alert(2)</script>';
    const other = await agentOf('ivan');
    const asked = refusalOf(await other.callTool({ name: 'get_forecast', arguments: { city: evil, [evil]: evil } }));
    const page = await person('ada');
    let isRun = false;
    page.once('dialog', async (dialog) => {
      isRun = true;
      await dialog.dismiss();
    });
    await page.goto(asked.next.url);
    await page.getByText(evil).first().waitFor();
    assert.equal(await page.locator('img[src=x]').count(), 0);
    assert.equal(isRun, false);
    await other.close();
  });
});

describe('watching and stopping', () => {
  test('live: a call appears without a reload, with four lights in words; its records and proof', async () => {
    const page = await person('aud');
    await page.goto(`${at}/live`);
    await page.waitForTimeout(300);
    const before = await page.locator('#calls tbody tr').count();
    const agent = await agentOf('jana');
    await agent.callTool({ name: 'get_report', arguments: {} });
    await page.waitForFunction((n) => document.querySelectorAll('#calls tbody tr').length > n, before);
    const row = page.locator('#calls tbody tr').first();
    for (const word of ['identity', 'consent', 'payment', 'authorization', 'ran']) {
      await row.getByText(new RegExp(`${word}$`)).first().waitFor();
    }
    await isSound(page, 'live');
    await row.locator('a').first().click();
    await page.getByText('invocation.result').first().waitFor();
    await page.waitForTimeout(400);
    await page.reload();
    await page.getByText('verified').waitFor();
    await isSound(page, 'call');
    const proof = await page.context().request.get(`${page.url()}/proof`);
    assert.match(await proof.text(), /"checkpoint"/);
    await agent.close();
  });

  test('grants: found, revoked in the browser, and refused from the next call on', async () => {
    const agent = await agentOf('kurt');
    const call = { name: 'get_forecast', arguments: { city: 'Graz' } };
    const asked = refusalOf(await agent.callTool(call));
    const page = await person('ada');
    await page.goto(asked.next.url);
    await page.click('#grant');
    await page.getByText('Grant made').waitFor();
    assert.match(textOf((await callPaid(agent, KEY, call)).result), /temperature/);
    await page.goto(`${at}/grants`);
    await page.fill('#q', 'kurt');
    await page.keyboard.press('Enter');
    await page.waitForURL(/q=kurt/);
    assert.equal(await page.locator('tbody tr').count(), 1);
    await isSound(page, 'grants');
    await page.getByRole('button', { name: /^Revoke/ }).click();
    await page.goto(`${at}/grants?q=kurt`);
    await page.getByText('revoked').waitFor();
    const next = refusalOf(await agent.callTool({ ...call, arguments: { city: 'Linz' } }));
    assert.equal(next.code, 'CNS-003');
    await agent.close();
  });

  test('settlements: a payment not known to have moved is ended by a person, and paid back', async () => {
    const agent = await agentOf('lotte');
    const call = { name: 'get_forecast', arguments: { city: 'Wels' } };
    const approver = await person('ada');
    await approver.goto(refusalOf(await agent.callTool(call)).next.url);
    await approver.click('#grant');
    await approver.getByText('Grant made').waitFor();
    await sandbox.fail('settle_pending');
    const lost = refusalOf((await callPaid(agent, KEY, call)).result);
    assert.deepEqual([lost.code, lost.charged], ['PAY-010', 'unknown']);
    const page = await person('ops');
    await page.goto(`${at}/settlements`);
    await page.getByText('Not known to have moved').waitFor();
    await isSound(page, 'settlements-open');
    await page.getByRole('button', { name: 'It did not' }).click();
    await page.getByText('can still be used').waitFor();
    await page.goto(`${at}/settlements`);
    await page.getByPlaceholder('transaction').fill(`0x${'ab'.repeat(32)}`);
    await page.getByRole('button', { name: 'It moved' }).click();
    await page.getByText('To be paid back').waitFor();
    await page.getByPlaceholder('reference').fill('0xcd');
    await page.getByRole('button', { name: 'Paid back' }).click();
    await page.getByText('Nothing needs a person').waitFor();
    await agent.close();
  });

  test('settlements: a call in doubt is ended, and its money owed back', async () => {
    const agent = await agentOf('lars');
    const { result } = await callPaid(agent, KEY, { name: 'get_slow', arguments: { ms: 5000 } });
    assert.equal(refusalOf(result).code, 'UPS-002', JSON.stringify(refusalOf(result)));
    const page = await person('ops');
    await page.goto(`${at}/settlements`);
    const doubts = page.getByRole('region', { name: 'Calls in doubt' });
    const row = doubts.getByRole('row').filter({ hasText: 'get_slow' });
    const call = await row.getByRole('link').innerText();
    await isSound(page, 'settlements-doubt');
    const auditor = await person('aud');
    await auditor.goto(`${at}/settlements`);
    await auditor.getByText('an operator ends it').waitFor();
    await row.getByRole('button', { name: 'It did not run' }).click();
    const due = page.getByRole('region', { name: 'Refunds due' }).getByRole('row').filter({ hasText: call });
    await due.waitFor();
    assert.equal(await doubts.count(), 0);
    assert.deepEqual((await gateway.cli('calls', 'show', call)).call.state, 'refund_due');
    await due.getByPlaceholder('reference').fill('0xef');
    await due.getByRole('button', { name: 'Paid back' }).click();
    await page.getByText('Nothing needs a person').waitFor();
    assert.deepEqual((await gateway.cli('calls', 'show', call)).call.state, 'refunded');
    await agent.close();
  });

  test('settlements: what an ended credential left is listed until it is booked', async () => {
    const token = await issuer.userToken('lena', mcp('archive'));
    const as = { headers: { ...MCP_ACCEPT, authorization: `Bearer ${token}` } };
    const offer = lightningOffer(await callTool(gateway, 'archive', 'get_report', {}, as));
    const meta = l402Meta(`${offer.token}:${await sandbox.pay(offer.invoice)}`);
    const used = await callTool(gateway, 'archive', 'get_report', {}, { ...as, meta });
    assert.equal(used.status, 200, used.text);
    const { items } = await gateway.cli('credential', 'list');
    const sold = items.find(({ state, tenant }) => state === 'paid' && tenant === 'default');
    await gateway.cli('credential', 'revoke', sold.credential);
    const page = await person('ops');
    await page.goto(`${at}/settlements`);
    const row = page.getByRole('region', { name: 'Unclaimed refunds' }).getByRole('row').filter({ hasText: sold.credential });
    await row.getByText('20 sat').waitFor();
    await isSound(page, 'settlements-unclaimed');
    const far = await person('far');
    await far.goto(`${at}/settlements`);
    await far.getByText('Nothing needs a person').waitFor();
    assert.equal(await far.getByText(sold.credential).count(), 0, 'another tenant does not see it');
    const refund = await row.locator('code').first().innerText();
    await gateway.cli('ledger', 'claimed', refund, '--reference', 'by hand');
    await page.reload();
    await page.getByText('Nothing needs a person').waitFor();
    assert.equal(await row.count(), 0);
  });

  test('a payment in doubt: the same call goes on by the yes that it used, and asks nobody again', async () => {
    const agent = await agentOf('olga');
    const call = { name: 'get_forecast', arguments: { city: 'Enns' } };
    const page = await person('ada');
    const asked = refusalOf(await agent.callTool(call));
    await page.goto(asked.next.url);
    await page.click('#approve');
    await page.getByText('The agent can make this very call now').waitFor();
    await sandbox.fail('settle_pending');
    const { payment, result: lost } = await callPaid(agent, KEY, call);
    assert.deepEqual([refusalOf(lost).code, refusalOf(lost).charged], ['PAY-010', 'unknown']);
    const again = await until('the outcome is known', async () => {
      const answer = await agent.callTool({ ...call, _meta: { 'x402/payment': payment } });
      return refusalOf(answer)?.code !== 'PAY-010' && answer;
    }, { every_ms: 500, timeout_ms: 30_000 });
    assert.match(textOf(again), /temperature/);
    const { items } = await gateway.cli('approvals', 'list', '--all');
    const own = items.filter(({ delegator }) => delegator.endsWith('olga'));
    assert.deepEqual(own.map(({ status }) => status), ['consumed'], 'one request, used once');
    await agent.close();
  });

  test('an auditor sees grants and settlements and ends nothing', async () => {
    const page = await person('aud');
    await page.goto(`${at}/grants`);
    assert.ok((await page.locator('tbody tr').count()) > 0);
    assert.equal(await page.getByRole('button', { name: /^Revoke/ }).count(), 0);
    await page.goto(`${at}/settlements`);
    await page.getByText('Nothing needs a person').waitFor();
    await isSound(page, 'settlements');
    const stranger = await person('zoe');
    for (const path of ['live', 'grants', 'settlements']) {
      assert.equal((await stranger.goto(`${at}/${path}`)).status(), 403, path);
    }
    assert.equal(await stranger.locator('tbody tr').count(), 0);
    const far = await person('far');
    await far.goto(`${at}/grants`);
    await far.getByText('No grants').waitFor();
    await far.goto(`${at}/live`);
    await far.getByText('No calls yet').waitFor();
  });
});

describe('tenants', () => {
  test('each sees its own calls, however many others came since, and its own prices', async () => {
    const [far, own] = [await agentOf('far'), await agentOf('jana')];
    await far.callTool({ name: 'get_report', arguments: {} });
    for (let i = 0; i < 60; i += 1) await own.callTool({ name: 'get_report', arguments: {} });
    const page = await person('far');
    for (const [path, name] of [['live', 'Calls'], ['spend', 'Spend by agent']]) {
      await page.goto(`${at}/${path}`);
      const rows = page.getByRole('region', { name }).locator('tbody tr');
      await rows.filter({ hasText: 'web-agent' }).first().waitFor();
      assert.equal(await rows.filter({ hasText: 'web-agent' }).count(), 1, path);
    }
    await page.goto(`${at}/live`);
    assert.equal(await page.locator('tbody tr').count(), 1, 'nobody else\'s');
    await page.goto(`${at}/tools`);
    await page.getByRole('row', { name: /get_forecast.*0\.07 USDC for tenant elsewhere/ }).waitFor();
    const auditor = await person('aud');
    await auditor.goto(`${at}/tools`);
    await auditor.getByRole('row', { name: /get_forecast.*0\.01 USDC/ }).waitFor();
    await auditor.getByRole('row', { name: /send_email not for your tenant/ }).waitFor();
    const shown = await auditor.locator('#main').innerText();
    assert.doesNotMatch(shown, /0\.07|0\.05|elsewhere/);
    await Promise.all([far.close(), own.close()]);
  });
});

describe('every other page', () => {
  for (const [path, said] of [
    ['spend', 'By agent'],
    ['log', 'Verify it yourself'],
    ['policy', 'What it says'],
    ['tools', 'get_forecast'],
    ['connect', 'claude mcp add'],
    ['me', 'No wallet is linked to you'],
    ['live', 'The latest calls'],
  ]) {
    test(`${path}: sound in light and dark, narrow and wide`, async () => {
      const page = await person('root');
      await page.goto(`${at}/${path}`);
      await page.getByText(said).first().waitFor();
      await isSound(page, path);
      assert.deepEqual(page.problems, []);
    });
  }

  test('policy: a request is tried without a script, and told what decides', async () => {
    const { page } = await browser.person({ javaScriptEnabled: false });
    await signIn(page, `${at}/policy`, 'root');
    const answer = page.locator('#answer');
    assert.equal(await answer.count(), 0, 'nothing was asked yet');
    await page.getByLabel('Tool', { exact: true }).fill('weather/get_forecast');
    await page.getByLabel('Price in USD').fill('2');
    await page.getByRole('button', { name: 'What would it say?' }).click();
    await answer.getByText('challenge for human_confirm').waitFor();
    await answer.getByText('spend.confirm', { exact: true }).first().waitFor();
    await answer.getByText('context.price.micros > 1000000').waitFor();
    assert.equal(await page.getByLabel('Price in USD').inputValue(), '2', 'the form stays filled in');
    await page.getByLabel('a person has confirmed').check();
    await page.getByRole('button', { name: 'What would it say?' }).click();
    await answer.locator('.badge.yes').getByText('allow').waitFor();

    await page.getByLabel('Budget left in USD').fill('1.5');
    await page.getByRole('button', { name: 'What would it say?' }).click();
    await answer.locator('.badge.no').getByText('deny').waitFor();
    await answer.getByText('The permit that came nearest failed in').waitFor();
    await page.getByLabel('Risk, 0 to 100').fill('<b>x</b>');
    await page.getByRole('button', { name: 'What would it say?' }).click();
    await page.getByRole('alert').getByText('The risk is a whole number from 0 to 100.').waitFor();
    await page.context().close();
  });

  test('policy: the shadow and the answer are sound, and lead to calls', async () => {
    const page = await person('root');
    await page.goto(`${at}/policy`);
    await page.getByText('No bundle in the shadow').waitFor();
    const dir = mkdtempSync(path.join(os.tmpdir(), 'countersign-shadow-'));
    cpSync(bundle, dir, { recursive: true });
    appendFileSync(
      path.join(dir, 'policies.cedar'),
      '@id("no.report") @reason("NO_REPORT") forbid (principal, action, resource == Tool::"weather/get_report");\n',
    );
    await gateway.cli('policy', 'bundle', dir, '--revision', '1');
    await gateway.cli('policy', 'shadow', 'set', dir);
    const agent = await agentOf('lena');
    const ran = await agent.callTool({ name: 'get_report', arguments: {} });
    assert.notEqual(refusalOf(ran)?.code, 'POL-001', 'the shadow decides nothing');
    await agent.close();
    await page.goto(
      `${at}/policy?tool=weather%2Fget_report&intent=write&price=0&consent=missing&risk=0&tier=T1&sensitivity=0#answer`,
    );
    await page.getByRole('row').filter({ hasText: 'no.report' }).waitFor();
    await page.getByText('consent.missing').first().waitFor();
    await isSound(page, 'policy-tried');
    await page.getByRole('row').filter({ hasText: 'no.report' }).getByRole('link').click();
    await page.getByText('weather/get_report').first().waitFor();
    assert.deepEqual(page.problems, []);
    await gateway.cli('policy', 'shadow', 'stop');
    rmSync(dir, { recursive: true });
  });

  test('a person links a wallet of their own by its signature, and unlinks it', async () => {
    const account = privateKeyToAccount(`0x${'33'.repeat(32)}`);
    const page = await person('wilma');
    const askToSign = async () => {
      await page.goto(`${at}/me`);
      await page.fill('#address', account.address);
      await page.click('#ask');
      return page.inputValue('#message');
    };
    const linkWith = async (signature) => {
      await page.fill('#signature', signature);
      await page.click('#link');
    };
    const message = await askToSign();
    assert.match(message, new RegExp(`^${new URL(at).host} wants you to sign in`));
    assert.match(message, /Link this wallet to wilma at /);
    await isSound(page, 'me-sign');
    const other = privateKeyToAccount(`0x${'44'.repeat(32)}`);
    await linkWith(await other.signMessage({ message }));
    await page.getByText('another wallet signed').first().waitFor();
    // A wallet in the browser (EIP-1193), here with an account of viem behind it.
    assert.equal(await page.locator('#sign').isVisible(), false, 'no wallet, no button');
    await page.exposeFunction('signAs', (raw) => account.signMessage({ message: { raw } }));
    await page.addInitScript(() => {
      window.ethereum = {
        request: ({ method, params: [data, address] = [] }) =>
          method === 'personal_sign' ? window.signAs(data, address) : Promise.resolve([]),
      };
    });
    await askToSign();
    await page.click('#sign');
    await page.getByRole('rowheader', { name: account.address }).waitFor();
    await page.getByRole('button', { name: `Unlink ${account.address}` }).click();
    await page.getByText('No wallet is linked to you').waitFor();
    await linkWith(await account.signMessage({ message: await askToSign() }));
    await page.getByRole('rowheader', { name: account.address }).waitFor();
    await isSound(page, 'me');
    const { items } = await gateway.cli('people', 'wallet', 'list', '--subject', 'wilma');
    assert.deepEqual(items.map(({ public: address, by }) => [address, by]), [[account.address, `${issuer.url}|wilma`]]);
    const stranger = await person('zoe');
    await stranger.goto(`${at}/me`);
    assert.equal(await stranger.getByText(account.address).count(), 0, 'nobody else sees it');
    const form_key = await stranger.locator('[name=form_key]').first().inputValue();
    const foreign = await stranger.context().request.post(
      `${at}/me/wallets/${account.address.toLowerCase()}/end`,
      { form: { form_key }, headers: { origin: at }, maxRedirects: 0 },
    );
    assert.equal(foreign.status(), 404, 'nor ends it');
    await page.goto(`${at}/me`);
    await page.getByRole('button', { name: `Unlink ${account.address}` }).click();
    await page.getByText('No wallet is linked to you').waitFor();
    assert.deepEqual((await gateway.cli('people', 'wallet', 'list')).items, []);
  });

  test('spend: charts are drawn from the tables below them; teams, budgets and their notes', async () => {
    const page = await person('root');
    await page.goto(`${at}/spend`);
    const region = (name) => page.getByRole('region', { name, exact: true });
    const number = async (cell) => Number((await cell.innerText()).split(' ')[0]);
    await page.locator('figure canvas').nth(2).waitFor();
    assert.ok((await region('Settled over time').locator('tbody tr').count()) >= 2);
    const team = (name) => region('Spend by team').getByRole('row').filter({ has: page.getByRole('rowheader', { name, exact: true }) });
    for (const name of ['research', 'finance']) {
      assert.ok((await number(team(name).locator('td').nth(2))) >= 0.01, 'in each of her teams');
    }
    await team('no team').waitFor();
    for (const [name, limit] of [['everybody', 5], ['noted', 4]]) {
      const rows = region(`What ${name} left`).locator('tbody tr');
      assert.equal(await number(rows.first().locator('td').last()), limit, 'from the whole limit on');
      const left = await number(rows.last().locator('td').last());
      const now = region('Budgets').getByRole('row').filter({ has: page.getByRole('rowheader', { name, exact: true }) });
      assert.equal(left, await number(now.locator('td').nth(4)), 'to what is left now');
      assert.ok(left < limit && left > 0);
    }
    const note = region('Budget warnings').getByRole('row', { name: /noted 1 %/ });
    await note.waitFor();
    await note.getByRole('link').click();
    await page.getByRole('row', { name: /budget\.warn/ }).first().waitFor();
  });

  test('log: the published log is checked in the page; a byte that was changed is found', async () => {
    const page = await person('aud');
    await page.goto(`${at}/log`);
    await page.getByRole('button', { name: 'Verify the published log' }).click();
    const verified = page.locator('#verified');
    await verified.locator('.badge.yes', { hasText: 'sound' }).waitFor();
    await verified.getByText('Signed tree size').waitFor();
    await isSound(page, 'log-sound');
    const file = path.join(gateway.dir, 'data/log/tile/entries/000');
    const good = readFileSync(file);
    const bad = Buffer.from(good);
    bad[bad.indexOf('"kind"') + 10] ^= 1;
    writeFileSync(file, bad);
    try {
      await page.getByRole('button', { name: 'Verify the published log' }).click();
      await verified.locator('.badge.no', { hasText: 'not sound' }).waitFor();
      await verified.getByText('Found', { exact: true }).waitFor();
      await isSound(page, 'log-tampered');
    } finally {
      writeFileSync(file, good);
    }
    await page.getByRole('button', { name: 'Verify the published log' }).click();
    await verified.locator('.badge.yes', { hasText: 'sound' }).waitFor();
    assert.equal((await fetch(`${at}/log/verify`, { method: 'POST', redirect: 'manual' })).status, 401);
  });

  test('log: records by kind, agent and call', async () => {
    const page = await person('aud');
    await page.goto(`${at}/log`);
    const rows = page.getByRole('region', { name: 'Records' }).locator('tbody tr');
    await page.getByLabel('Kind').selectOption('ledger.impact');
    await page.getByLabel('Agent').fill('web-agent');
    await page.getByRole('button', { name: 'Show' }).click();
    await page.waitForURL(/kind=ledger\.impact/);
    const count = await rows.count();
    assert.ok(count > 1);
    assert.equal(await rows.filter({ hasText: 'ledger.impact' }).filter({ hasText: 'web-agent' }).count(), count);
    const call = (await rows.first().getByRole('link').getAttribute('href')).split('/').at(-1);
    await page.goto(`${at}/log`);
    await page.getByLabel('Call').fill(call);
    await page.keyboard.press('Enter');
    await page.waitForURL(/call=call_/);
    assert.equal(await rows.count(), 6);
    await page.goto(`${at}/log?agent=nobody-of-that-name`);
    await page.getByText('No records here').waitFor();
    const far = await person('far');
    await far.goto(`${at}/log?call=${call}`);
    await far.getByText('No records here').waitFor();
  });

  test('connect: what is pasted into the SDKs lists the tools', async () => {
    const page = await person('root');
    await page.goto(`${at}/connect`);
    const token = await issuer.userToken('ada', mcp('weather'));
    const text = (client) =>
      page.locator('details', { has: page.locator('summary', { hasText: client }) }).first().locator('code').textContent();
    const configs = await Promise.all(['Claude Desktop', 'Cursor', 'VS Code'].map(text));
    const [desktop, cursor, code] = configs.map((config) => JSON.parse(config));
    assert.equal(desktop.mcpServers.archive.args.at(-1), mcp('archive'));
    assert.equal(cursor.mcpServers.archive.url, mcp('archive'));
    assert.match(cursor.mcpServers.archive.headers.Authorization, /^Bearer /);
    assert.deepEqual(code.servers.archive, { type: 'http', url: mcp('archive') });
    const dir = fileURLToPath(new URL('.', import.meta.url));
    for (const [client, program, name] of [
      ['Python', path.join(dir, '.venv/bin/python'), 'py'],
      ['TypeScript', process.execPath, 'mjs'],
    ]) {
      const pasted = (await text(client)).replaceAll(mcp('archive'), mcp('weather'));
      // Beside the packages that it imports.
      const file = path.join(dir, `pasted-${process.pid}.${name}`);
      writeFileSync(file, pasted);
      try {
        const options = { env: { ...process.env, TOKEN: token }, timeout: 60_000 };
        const { stdout } = await promisify(execFile)(program, [file], options);
        assert.match(stdout, /^get_forecast\r?$/m, client);
      } finally {
        rmSync(file);
      }
    }
  });

  test('refusals, the end of a session and pages with nothing on them are sound', async () => {
    const { page: nobody } = await browser.person();
    await nobody.goto(`${at}/signed-out`);
    await isSound(nobody, 'signed-out');
    await nobody.goto(`${at}/nowhere`);
    await nobody.getByText('ADM-002').waitFor();
    await isSound(nobody, 'refused-unknown');
    await nobody.goto(`${at}/sign-in/callback?code=x&state=y`);
    await nobody.getByText('ADM-007').waitFor();
    await isSound(nobody, 'refused-sign-in');
    await nobody.context().close();
    const stranger = await person('zoe');
    await stranger.goto(`${at}/live`);
    await stranger.getByText('ADM-005').waitFor();
    await isSound(stranger, 'refused-role');
    const page = await person('empty');
    for (const [path, said] of [
      ['', 'Nothing waits for you'],
      ['live', 'No calls yet'],
      ['grants', 'No grants'],
      ['spend', 'Nothing spent'],
      ['settlements', 'Nothing needs a person'],
      ['log', 'No records here'],
    ]) {
      await page.goto(`${at}/${path}`);
      await page.getByText(said).first().waitFor();
      await isSound(page, `empty-${path || 'inbox'}`);
    }
    assert.deepEqual(page.problems, []);
  });

  test('without JavaScript people sign in and answer all the same', async () => {
    const agent = await agentOf('lena');
    const call = { name: 'get_forecast', arguments: { city: 'Brno' } };
    const asked = refusalOf(await agent.callTool(call));
    const { page } = await browser.person({ javaScriptEnabled: false });
    await signIn(page, asked.next.url, 'ben');
    await page.click('#approve');
    await page.getByText('The agent can make this very call now').waitFor();
    await agent.close();
  });
});

describe('the admin API over the network', () => {
  const ask = async (path, token, init = {}) => {
    const headers = { ...(token ? { authorization: `Bearer ${token}` } : {}), ...init.headers };
    const response = await fetch(`${at}/api/v1${path}`, { ...init, headers });
    return { status: response.status, body: JSON.parse(await response.text()) };
  };

  test('a program of the operator, within its roles; it never answers a request', async () => {
    const agent = await agentOf('mona');
    await agent.callTool({ name: 'get_forecast', arguments: { city: 'Metz' } });
    const token = await issuer.clientCredentials(`${at}/api`, 'mcp:call', PROGRAM);
    const { status, body } = await ask('/approvals?status=pending', token);
    assert.equal(status, 200);
    const waiting = body.items.find(({ delegator }) => delegator.endsWith('|mona'));
    const answer = await ask(`/approvals/${waiting.id}/approve`, token, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{}',
    });
    assert.deepEqual([answer.status, answer.body.code], [403, 'ADM-005']);
    assert.equal((await ask('/calls', token)).status, 200);
    assert.equal((await ask('/nowhere', token)).body.code, 'ADM-002');
    await agent.close();
  });

  test('no token, an agent\'s token, a program\'s token for a tool, another client: refused', async () => {
    const none = await ask('/grants');
    assert.deepEqual([none.status, none.body.code], [401, 'ADM-004']);
    for (const token of [
      await issuer.userToken('ada', mcp('weather')),
      await issuer.clientCredentials(mcp('weather'), 'mcp:call', PROGRAM),
      await issuer.userToken('ada', `${at}/api`),
      await issuer.clientCredentials(`${at}/api`),
      'x.y.z',
    ]) {
      assert.equal((await ask('/grants', token)).status, 401);
    }
  });
});
