// An OpenID provider on loopback (npm oidc-provider) that issues RFC 9068 access tokens for the
// gateway's upstreams, and the client side of its flows, run for real over HTTP.
//
// Each upstream of the gateway is one resource server (RFC 8707), its URI the token's audience.

import { createHash, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

import * as jose from 'jose';
import { Provider, errors } from 'oidc-provider';

import { freePort } from './process.mjs';

export const SCOPES = ['mcp:tools', 'mcp:call', 'pay:spend'];
/** Types of authorization details (RFC 9396) that may be asked for: the gateway's, and another. */
export const DETAIL_TYPES = ['urn:countersign:mcp-spend:1', 'urn:example:other:1'];
export const MACHINE = { id: 'agent-m2m', secret: 'agent-m2m-secret' };
export const WEB = { id: 'web-agent' };

/**
 * Starts the issuer. All options have defaults:
 * - `port`: a free one
 * - `resources`: URIs, or {uri, alg, ttl_s, format}; more can be added later
 * - `machines`: further client_credentials clients, {id, secret}
 * - `claims(token)`: what goes into every access token beside the standard claims; `token` is
 *   {subject, client}
 * - `consoles`: clients at which people sign in with a browser, {id, secret, redirectUri}
 * - `natives`: public clients of programs on people's own machines, {id, redirectUri} without port
 * - `registers`: whether it registers clients by itself (RFC 7591)
 * - `documents`: by address, what a client's metadata document says, as if it were fetched from there
 * - `people(login)`: what goes into their ID tokens: `name`, `roles`, `org_id`
 * - `jwks`: private keys, to start again with the same ones (default: fresh ones)
 */
export async function startIssuer({
  port,
  resources = [],
  machines = [],
  consoles = [],
  natives = [],
  registers = false,
  documents = {},
  people = (login) => ({ name: login }),
  claims = () => ({ org_id: 'org_acme', acr: 'urn:example:acr:mfa' }),
  jwks,
} = {}) {
  port ??= await freePort();
  jwks ??= await freshKeys();
  const url = `http://127.0.0.1:${port}`;
  const redirectUri = `http://127.0.0.1:${port}/not-fetched/callback`;
  const servers = new Map();
  const addResource = (resource) => {
    const { uri, ...server } = resourceServer(resource);
    servers.set(uri, server);
  };
  resources.forEach(addResource);

  const provider = new Provider(url, {
    jwks,
    cookies: { keys: [randomBytes(16).toString('hex')] },
    clients: [
      ...[MACHINE, ...machines].map(({ id, secret }) => ({
        client_id: id,
        client_secret: secret,
        grant_types: ['client_credentials'],
        response_types: [],
        redirect_uris: [],
      })),
      ...consoles.map(({ id, secret, redirectUri: uri }) => ({
        client_id: id,
        client_secret: secret,
        application_type: 'native',
        grant_types: ['authorization_code'],
        response_types: ['code'],
        redirect_uris: [uri],
      })),
      ...natives.map(({ id, redirectUri: uri }) => ({
        client_id: id,
        token_endpoint_auth_method: 'none',
        application_type: 'native',
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        redirect_uris: [uri],
      })),
      {
        client_id: WEB.id,
        token_endpoint_auth_method: 'none',
        application_type: 'native',
        authorization_details_types: DETAIL_TYPES,
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        redirect_uris: [redirectUri],
      },
    ],
    scopes: ['openid', 'offline_access', ...SCOPES],
    ttl: {
      AccessToken: (ctx, token) => token.resourceServer?.accessTokenTTL ?? 600,
      ClientCredentials: (ctx, token) => token.resourceServer.accessTokenTTL,
      ...Object.fromEntries(
        ['Grant', 'IdToken', 'Interaction', 'RefreshToken', 'Session'].map((kind) => [kind, 3600]),
      ),
    },
    pkce: { required: () => true },
    claims: { openid: ['sub'], profile: ['name', 'roles', 'org_id'] },
    conformIdTokenClaims: false,
    fetch: (url, options) =>
      url in documents ? Response.json(documents[url]) : globalThis.fetch(url, options),
    findAccount: (ctx, id) => ({
      accountId: id,
      claims: async () => ({ sub: id, ...people(id) }),
    }),
    extraTokenClaims: (ctx, token) => ({
      ...(token.accountId ? { auth_time: Math.floor(Date.now() / 1000) } : {}),
      ...claims({ subject: token.accountId ?? token.clientId, client: token.clientId }),
    }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      registration: { enabled: registers },
      clientIdMetadataDocument: { enabled: Object.keys(documents).length > 0, ack: 'draft-02' },
      richAuthorizationRequests: {
        enabled: true,
        types: Object.fromEntries(DETAIL_TYPES.map((type) => [type, { validate() {} }])),
        authorizationDetailsForGrantSource: (ctx) => ctx.oidc.grant.rar,
        authorizationDetailsForAccessToken: (ctx, token, source) => source?.rar,
        authorizationDetailsForIntrospection: (ctx, token) => token.rar,
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client, oneOf) => oneOf,
        useGrantedResource: () => true,
        getResourceServerInfo(ctx, uri) {
          if (!servers.has(uri)) throw new errors.InvalidTarget();
          return servers.get(uri);
        },
      },
    },
  });
  provider.on('server_error', (ctx, error) => console.error('issuer:', error));

  const server = createServer(provider.callback());
  await new Promise((resolve, reject) => {
    server.once('error', reject).listen(port, '127.0.0.1', resolve);
  });
  return {
    url,
    port,
    jwks,
    jwksUri: `${url}/jwks`,
    machine: MACHINE,
    addResource,
    clientCredentials: (resource, scope = 'mcp:call', client = MACHINE) =>
      clientCredentials(url, client, resource, scope),
    userToken: async (login, resource, scope = 'mcp:tools mcp:call pay:spend') =>
      (await authorizationCode({ url, redirectUri, login, resource, scope })).access_token,
    /** The whole token response; with `openid offline_access` in the scope, also the ID token. */
    userTokens: (login, resource, scope, details) =>
      authorizationCode({ url, redirectUri, login, resource, scope, details }),
    /** A token for which the person also agreed to these authorization details. */
    consentedToken: async (login, resource, details, scope = 'mcp:tools mcp:call pay:spend') =>
      (await authorizationCode({ url, redirectUri, login, resource, scope, details })).access_token,
    /** Signs in at an authorization page as a browser would, and goes back where it leads. */
    async visit(page, login) {
      const back = new URL(page).searchParams.get('redirect_uri');
      const answer = await submitForms(page, back, login);
      return (await fetch(`${back}?${answer}`)).text();
    },
    refresh: (refresh_token, resource) =>
      post(`${url}/token`, {
        grant_type: 'refresh_token', client_id: WEB.id, refresh_token, resource,
      }),
    /** Signs any claims at all with one of this issuer's keys. */
    sign: (payload, options) => sign(jwks, { iss: url, ...payload }, options),
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function clientCredentials(url, client, resource, scope) {
  const password = Buffer.from(`${client.id}:${client.secret}`).toString('base64');
  const tokens = await post(
    `${url}/token`,
    { grant_type: 'client_credentials', resource, scope },
    { authorization: `Basic ${password}` },
  );
  return tokens.access_token;
}

// Authorization code with PKCE: fills in the login and the consent form as a browser would.
async function authorizationCode({ url, redirectUri, login, resource, scope, details }) {
  const verifier = randomBytes(32).toString('base64url');
  const state = randomBytes(8).toString('hex');
  const authorization = new URLSearchParams({
    client_id: WEB.id,
    response_type: 'code',
    redirect_uri: redirectUri,
    scope: `openid ${scope}`,
    resource,
    state,
    prompt: 'consent',
    code_challenge_method: 'S256',
    ...(details ? { authorization_details: JSON.stringify(details) } : {}),
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
  });
  const answer = await submitForms(`${url}/auth?${authorization}`, redirectUri, login);
  if (answer.get('error')) throw new Error(`authorization refused: ${answer}`);
  if (answer.get('state') !== state || answer.get('iss') !== url) {
    throw new Error(`answer to another request: ${answer}`);
  }
  return post(`${url}/token`, {
    grant_type: 'authorization_code',
    client_id: WEB.id,
    code: answer.get('code'),
    code_verifier: verifier,
    redirect_uri: redirectUri,
    resource,
  });
}

// Follows redirects and submits the provider's forms until it redirects to `redirectUri`; returns
// the parameters given there.
async function submitForms(address, redirectUri, login) {
  const cookies = new Map();
  let request = { method: 'GET' };
  for (let step = 0; step < 12; step++) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(address, { ...request, headers: { cookie }, redirect: 'manual' });
    for (const line of response.headers.getSetCookie()) {
      const [pair] = line.split(';');
      const equals = pair.indexOf('=');
      cookies.set(pair.slice(0, equals), pair.slice(equals + 1));
    }
    const location = response.headers.get('location');
    if (location) {
      address = new URL(location, address).href;
      request = { method: 'GET' };
      if (address.startsWith(redirectUri)) return new URL(address).searchParams;
      continue;
    }
    const page = await response.text();
    const action = /action="([^"]+)"/.exec(page)?.[1];
    const prompt = /name="prompt" value="([^"]+)"/.exec(page)?.[1];
    if (!action || !prompt) throw new Error(`no form, ${response.status}: ${page.slice(0, 2000)}`);
    const fields = prompt === 'login' ? { prompt, login, password: 'any' } : { prompt };
    address = new URL(action, address).href;
    request = { method: 'POST', body: new URLSearchParams(fields) };
  }
  throw new Error(`still no redirect to ${redirectUri}, now at ${address}`);
}

async function post(address, fields, headers = {}) {
  const body = new URLSearchParams(fields);
  const response = await fetch(address, { method: 'POST', body, headers });
  const answer = await response.json();
  if (!response.ok) {
    throw new Error(`${answer.error}: ${answer.error_description}`, { cause: answer });
  }
  return answer;
}

function resourceServer(resource) {
  const { uri, alg = 'ES256', ttl_s = 600, format = 'jwt' } =
    typeof resource === 'string' ? { uri: resource } : resource;
  return {
    uri,
    audience: uri,
    scope: SCOPES.join(' '),
    accessTokenTTL: ttl_s,
    accessTokenFormat: format,
    ...(format === 'jwt' ? { jwt: { sign: { alg } } } : {}),
  };
}

async function freshKeys() {
  const keys = ['RS256', 'ES256', 'EdDSA'].map(async (alg) => {
    const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
    const kid = `${alg.toLowerCase()}-${randomBytes(4).toString('hex')}`;
    return { ...(await jose.exportJWK(privateKey)), alg, use: 'sig', kid };
  });
  return { keys: await Promise.all(keys) };
}

async function sign(jwks, payload, { alg = 'ES256', header = {} } = {}) {
  const jwk = jwks.keys.find((key) => key.alg === alg);
  return new jose.SignJWT(payload)
    .setProtectedHeader({ alg, kid: jwk.kid, typ: 'at+jwt', ...header })
    .sign(await jose.importJWK(jwk, alg));
}
