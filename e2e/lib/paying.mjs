// The paying clients of this project, as their examples: each calls one tool and prints the result.

import { cpSync, mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import ts from 'typescript';

import { gatewayBinary } from './gateway.mjs';
import { start } from './process.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const clients = path.join(root, '..', 'clients');
// Where the packages that the example imports are found.
const built = path.join(root, 'node_modules', '.countersign-clients');

const STRICT = {
  strict: true,
  noUncheckedIndexedAccess: true,
  erasableSyntaxOnly: true,
  noUnusedLocals: true,
  noUnusedParameters: true,
  skipLibCheck: true,
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts'],
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  types: ['node'],
};

/** Compiles clients/typescript as strictly as there is; gives the module of a file. */
export function compile() {
  rmSync(built, { recursive: true, force: true });
  mkdirSync(built, { recursive: true });
  cpSync(path.join(clients, 'typescript'), built, { recursive: true });
  const files = ['countersign-fetch.ts', 'example.ts'].map((name) => path.join(built, name));
  const typeRoots = [path.join(root, 'node_modules', '@types')];
  const program = ts.createProgram(files, { ...STRICT, typeRoots });
  const found = [...ts.getPreEmitDiagnostics(program), ...program.emit().diagnostics];
  if (found.length > 0) {
    throw new Error(ts.formatDiagnostics(found, {
      getCanonicalFileName: (name) => name,
      getCurrentDirectory: () => built,
      getNewLine: () => '\n',
    }));
  }
  return (name) => import(pathToFileURL(path.join(built, name)).href);
}

// `cargo test`, and `cargo build --examples`, put them beside the gateway.
const rust = (name) => [path.join(path.dirname(gatewayBinary), 'examples', name), []];

/** How each client's example is started, and what it is told of its wallets. */
export const CLIENTS = {
  'tower': rust('tower'),
  'reqwest': rust('reqwest'),
  'rmcp': rust('rmcp'),
  'Python httpx': [
    path.join(root, '.venv', 'bin', 'python'), [path.join(clients, 'python', 'example.py')],
  ],
  'TypeScript fetch': [process.execPath, [path.join(built, 'example.js')]],
};

/**
 * Calls a tool with a client's example: {code, result, said, output}.
 * - `lightning`, `key`: a wallet, an account; `token`: an access token; `state`: a directory
 */
export async function callWith(client, url, tool, args, { lightning, key, token, state } = {}) {
  const [command, first] = CLIENTS[client];
  const env = {
    PYTHONDONTWRITEBYTECODE: '1',
    ...(lightning ? { LIGHTNING: lightning, WALLET: 'env:LIGHTNING' } : {}),
    ...(key ? { EVM_KEY: key, WALLET: 'env:EVM_KEY' } : {}),
    ...(token ? { TOKEN: token } : {}),
    ...(state ? { STATE: state } : {}),
  };
  const run = start(command, [...first, url, tool, JSON.stringify(args)], { env });
  const { code } = await run.ended;
  return { code, result: resultIn(run.stdout()), said: run.stderr(), output: run.output() };
}

// A result, a message, or a message in an event.
function resultIn(text) {
  const line = /\{.*\}/.exec(text)?.[0];
  const message = line && JSON.parse(line);
  return message?.jsonrpc ? message.result : message;
}
