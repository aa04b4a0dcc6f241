// Compiles the test contracts with npm `solc`, and caches the result by what went into it.
//
// Run as a program it prints {name: {abi, bytecode}} for every contract of ../contracts. The
// compiler runs in a process of its own, since its runtime installs handlers for uncaught errors.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const settings = {
  evmVersion: 'cancun',
  optimizer: { enabled: true, runs: 200 },
  outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object'] } },
};

/** {name: {abi, bytecode}} of every contract in e2e/contracts. */
export function compiledContracts() {
  const sources = ownSources();
  const inputs = { sources, settings, versions: ['solc', '@openzeppelin/contracts'].map(version) };
  const key = createHash('sha256').update(JSON.stringify(inputs)).digest('hex').slice(0, 16);
  const cached = path.join(root, '.cache', `contracts-${key}.json`);
  if (!existsSync(cached)) {
    mkdirSync(path.dirname(cached), { recursive: true });
    const artefacts = execFileSync(process.execPath, [fileURLToPath(import.meta.url)], {
      maxBuffer: 64 << 20,
    });
    const draft = `${cached}.${process.pid}`;
    writeFileSync(draft, artefacts);
    renameSync(draft, cached);
  }
  return JSON.parse(readFileSync(cached, 'utf8'));
}

function compile() {
  const solc = require('solc');
  const sources = ownSources();
  const input = { language: 'Solidity', sources, settings };
  const readImport = (name) => ({
    contents: readFileSync(path.join(root, 'node_modules', name), 'utf8'),
  });
  const { errors = [], contracts } = JSON.parse(
    solc.compile(JSON.stringify(input), { import: readImport }),
  );
  const fatal = errors.filter(({ severity }) => severity === 'error');
  if (fatal.length) throw new Error(fatal.map((error) => error.formattedMessage).join('\n'));

  return Object.fromEntries(
    Object.keys(sources).map((file) => {
      const name = path.basename(file, '.sol');
      const { abi, evm } = contracts[file][name];
      return [name, { abi, bytecode: `0x${evm.bytecode.object}` }];
    }),
  );
}

function ownSources() {
  const directory = path.join(root, 'contracts');
  return Object.fromEntries(
    readdirSync(directory)
      .filter((file) => file.endsWith('.sol'))
      .sort()
      .map((file) => [file, { content: readFileSync(path.join(directory, file), 'utf8') }]),
  );
}

function version(packageName) {
  const manifest = path.join(root, 'node_modules', packageName, 'package.json');
  return JSON.parse(readFileSync(manifest, 'utf8')).version;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.stdout.write(JSON.stringify(compile()));
}
