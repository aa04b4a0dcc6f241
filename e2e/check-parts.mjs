// Says which npm parts the tests will use, and fails when one of them is missing or does not load.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

import { anvilBinary } from './lib/chain.mjs';
import './lib/everything.mjs';
import './lib/issuer.mjs';
import './lib/l402http.mjs';
import './lib/mcpclients.mjs';
import './lib/x402http.mjs';
import 'agents/x402';

const root = new URL('.', import.meta.url);
const manifest = (path) => JSON.parse(readFileSync(new URL(path, root), 'utf8'));
const { dependencies } = manifest('package.json');
for (const [name, pinned] of Object.entries(dependencies)) {
  const { version } = manifest(`node_modules/${name}/package.json`);
  if (version !== pinned) throw new Error(`${name} is ${version}, pinned ${pinned}`);
}
console.log(Object.entries(dependencies).map((part) => part.join(' ')).join(', '));
console.log(execFileSync(anvilBinary(), ['--version'], { encoding: 'utf8' }).split('\n')[0]);
