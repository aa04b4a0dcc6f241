// Macaroons in their second binary form, by hand: for what no library would let through.

import { createHmac } from 'node:crypto';

const EOS = 0;
const [LOCATION, IDENTIFIER, SIGNATURE] = [1, 2, 6];

/** @returns {location?, identifier, caveats, signature}, all buffers */
export function decode(token) {
  const bytes = Buffer.from(token, 'base64');
  let at = 0;
  const number = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const section = () => {
    const fields = new Map();
    for (;;) {
      const kind = number();
      if (kind === EOS) return fields;
      const length = number();
      fields.set(kind, bytes.subarray(at, at + length));
      at += length;
    }
  };
  if (bytes[at++] !== 2) throw new Error('not a macaroon of version 2');
  const head = section();
  const caveats = [];
  for (let caveat = section(); caveat.size > 0; caveat = section()) {
    caveats.push(caveat.get(IDENTIFIER));
  }
  if (number() !== SIGNATURE) throw new Error('no signature');
  const length = number();
  const signature = bytes.subarray(at, at + length);
  if (at + length !== bytes.length) throw new Error('bytes after the signature');
  return { location: head.get(LOCATION), identifier: head.get(IDENTIFIER), caveats, signature };
}

export function encode({ location, identifier, caveats, signature }) {
  const field = (kind, bytes) => Buffer.concat([varint(kind), varint(bytes.length), bytes]);
  const end = Buffer.from([EOS]);
  return Buffer.concat([
    Buffer.from([2]),
    ...(location ? [field(LOCATION, location)] : []),
    field(IDENTIFIER, identifier),
    end,
    ...caveats.flatMap((caveat) => [field(IDENTIFIER, caveat), end]),
    end,
    field(SIGNATURE, signature),
  ]).toString('base64');
}

/** A further caveat, rightly signed: what any holder can do. */
export function attenuate(token, caveat) {
  const macaroon = decode(token);
  const added = Buffer.from(caveat);
  return encode({
    ...macaroon,
    caveats: [...macaroon.caveats, added],
    signature: hmac(macaroon.signature, added),
  });
}

/** The same macaroon under another root key. */
export function remint(token, rootKey) {
  const macaroon = decode(token);
  const key = hmac('macaroons-key-generator', rootKey);
  const signature = [macaroon.identifier, ...macaroon.caveats].reduce(hmac, key);
  return encode({ ...macaroon, signature });
}

/** Caveats changed by `edit(list)`, the signature left as it is. */
export function recaveat(token, edit) {
  const macaroon = decode(token);
  return encode({ ...macaroon, caveats: edit(macaroon.caveats) });
}

/** One bit of the whole flipped. */
export function flipBit(token, bit) {
  const bytes = Buffer.from(token, 'base64');
  bytes[bit >> 3] ^= 1 << (bit & 7);
  return bytes.toString('base64');
}

export const caveatsOf = (token) => decode(token).caveats.map(String);

const hmac = (key, data) => createHmac('sha256', key).update(data).digest();

function varint(value) {
  const bytes = [];
  for (; value > 0x7f; value >>= 7) bytes.push((value & 0x7f) | 0x80);
  return Buffer.from([...bytes, value]);
}

/** The binary form of a macaroon that a library gives as JSON of the second version. */
export function ofJson({ l, i, i64, c = [], s, s64 }) {
  const bytes = (text, base64) => (text === undefined ? Buffer.from(base64, 'base64url') : Buffer.from(text));
  return encode({
    location: l === undefined ? undefined : Buffer.from(l),
    identifier: bytes(i, i64),
    caveats: c.map((caveat) => bytes(caveat.i, caveat.i64)),
    signature: s === undefined ? Buffer.from(s64, 'base64url') : Buffer.from(s, 'hex'),
  });
}
