// Debian's Chromium, driven by npm playwright-core; what a person does at the console, and what
// axe-core says of a page.

import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
// Where pictures are kept: artefacts of a run, never of the tree.
const shots = process.env.COUNTERSIGN_ARTEFACTS
  ? path.resolve(process.env.COUNTERSIGN_ARTEFACTS)
  : fileURLToPath(new URL('../screenshots/', import.meta.url));

const chromiumPath = () => {
  const places = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
  const found = [process.env.CHROMIUM, ...places].find((place) => place && existsSync(place));
  if (!found) throw new Error('no Chromium: run scripts/install-e2e.sh as root, or set CHROMIUM');
  return found;
};

/** A browser; each person gets a context of their own. */
export async function startBrowser() {
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  const browser = await chromium.launch({ executablePath: chromiumPath(), args });
  mkdirSync(shots, { recursive: true });
  return {
    /** A person with a fresh browser: {page, context}. */
    async person(options = {}) {
      const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
      const page = await context.newPage();
      page.problems = [];
      page.on('console', (message) => {
        const { url } = message.location();
        // The issuer's own pages ask for fonts that are not here.
        if (message.type() === 'error' && url.startsWith(new URL(page.url()).origin)) page.problems.push(message.text());
      });
      page.on('pageerror', (error) => page.problems.push(String(error)));
      page.setDefaultTimeout(15_000);
      return { page, context };
    },
    stop: () => browser.close(),
  };
}

/** Opens a page of the console, signing in at the issuer's forms where it asks. */
export async function signIn(page, url, login) {
  await page.goto(url);
  await atIssuer(page, new URL(url).origin, login);
}

/** Answers the issuer's forms, until it leads back to `origin`. */
export async function atIssuer(page, origin, login) {
  if (await page.locator('input[name=login]').count()) {
    await page.fill('input[name=login]', login);
    await page.fill('input[name=password]', 'any');
    await page.click('button[type=submit]');
  }
  // The provider asks once whether the console may know who they are.
  const prompt = page.locator('input[name=prompt][value=consent]');
  if (await prompt.count()) await page.click('button[type=submit]');
  await page.waitForURL((at) => at.origin === origin);
}

/** Moves the focus by the Tab key until it is on what `selector` names. */
export async function tabTo(page, selector) {
  for (let presses = 0; presses < 120; presses += 1) {
    // A key can have led to another page: then it is looked for there.
    const isThere = await page
      .evaluate((wanted) => document.activeElement.matches(wanted), selector)
      .catch((gone) => (/navigation/.test(gone.message) ? undefined : Promise.reject(gone)));
    if (isThere) return;
    if (isThere === undefined) await page.waitForLoadState();
    else await page.keyboard.press('Tab');
  }
  throw new Error(`the Tab key never reaches ${selector}`);
}

/** What axe finds wrong with the page as it is. */
export async function violations(page) {
  // The content security policy lets no page evaluate scripts; the tester may.
  if (!(await page.evaluate(() => 'axe' in globalThis))) await page.evaluate(axe);
  return page.evaluate(async () => {
    const { violations: found } = await globalThis.axe.run(document, { resultTypes: ['violations'] });
    return found.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 160)).join(' | ')}`);
  });
}

/** Keeps a picture of the whole page. */
export const shot = (page, name) =>
  page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });
