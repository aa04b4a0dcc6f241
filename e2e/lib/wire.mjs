// A fetch that remembers what went over the wire, and the same with headers of one's own.

/**
 * @returns {fetch, wire}: `wire` grows by {method, url, headers, body, status, responseHeaders,
 * response} for each exchange; bodies are text, `response` a promise of text (it may be a stream).
 */
export function recordingFetch(inner = fetch) {
  const wire = [];
  const record = async (input, init) => {
    const request = new Request(input, init);
    const body = request.body ? await request.clone().text() : '';
    const response = await inner(request);
    wire.push({
      method: request.method,
      url: request.url,
      headers: Object.fromEntries(request.headers),
      body,
      status: response.status,
      responseHeaders: Object.fromEntries(response.headers),
      response: response.clone().text().catch((error) => `cut off: ${error}`),
    });
    return response;
  };
  return { fetch: record, wire };
}

/** A fetch that adds headers to every request. */
export function fetchWithHeaders(headers, inner = fetch) {
  return (input, init) => {
    const request = new Request(input, init);
    for (const [name, value] of Object.entries(headers)) request.headers.set(name, value);
    return inner(request);
  };
}

export const bearer = (token) => (token ? { authorization: `Bearer ${token}` } : {});

/** A base64 JSON header, as x402 has them. */
export function decodeHeader(value) {
  return value ? JSON.parse(Buffer.from(value, 'base64').toString('utf8')) : undefined;
}
