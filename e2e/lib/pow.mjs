// Solvers of proof of work that know nothing of ours: what a client would write after reading the
// guide, a hashcash stamp, and ALTCHA's own library.

import { createHash } from 'node:crypto';

import { solveChallenge } from 'altcha-lib';

/** The solution of {nonce, target}: SHA-256 over both as text, in hex, is at most the target. */
export function solve({ nonce, target }) {
  const start = createHash('sha256').update(nonce);
  for (let n = 0; ; n++) {
    if (start.copy().update(String(n)).digest('hex') <= target) return String(n);
  }
}

/** A solution that is none: the first number above the target. */
export function fail({ nonce, target }) {
  for (let n = 0; ; n++) {
    const hash = createHash('sha256').update(nonce).update(String(n)).digest('hex');
    if (hash > target) return String(n);
  }
}

/** The same by counting leading zero bits, as the older form has it. */
export function solveBits({ nonce, bits }) {
  const start = createHash('sha256').update(nonce);
  for (let n = 0; ; n++) {
    if (zeros(start.copy().update(String(n)).digest()) >= bits) return String(n);
  }
}

/** A hashcash v1 stamp: SHA-1, the nonce as its resource. */
export function stamp({ nonce, bits }, claimed = bits) {
  const head = `1:${claimed}:261201:${nonce}::r4nd:`;
  const start = createHash('sha1').update(head);
  for (let n = 0; ; n++) {
    const counter = n.toString(36);
    if (zeros(start.copy().update(counter).digest()) >= bits) return head + counter;
  }
}

function zeros(hash) {
  const word = hash.readUInt32BE(0);
  return word === 0 ? 32 + Math.clz32(hash.readUInt32BE(4)) : Math.clz32(word);
}

/** The payload of ALTCHA's widget, solved by its library. */
export async function altcha({ altcha: { algorithm, challenge, salt, signature, maxnumber } }) {
  const { number } = await solveChallenge(challenge, salt, algorithm, maxnumber).promise;
  const payload = { algorithm, challenge, number, salt, signature };
  return Buffer.from(JSON.stringify(payload)).toString('base64');
}

/** What a challenge offers for work, from either form. */
export const workOffer = (answer) =>
  answer.result?._meta?.['countersign/pow'] ?? answer.message?.pow ?? answer.problem?.pow;

/** `_meta` of a retry. */
export const powMeta = (nonce, solution) => ({ 'countersign/pow': { nonce, solution } });
