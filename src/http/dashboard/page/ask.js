// Requests to /v1 and /session, by the cookie of this page; problems (RFC 9457) become sentences.

/** What the server says was wrong, for a person to read. */
export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
  }
}

/** Sends people without a session to the log-in, and back afterwards. */
export function logIn() {
  const here = location.pathname + location.search;
  location.replace(here === '/' ? '/login' : `/login?to=${encodeURIComponent(here)}`);
  // The page is being left: whoever waits for an answer waits until then.
  return new Promise(() => {});
}

/** Asks and returns the answer's JSON (null where there is none). A lost session ends at the log-in. */
export async function ask(path, { method = 'GET', query, body, signal } = {}) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== '' && value !== null && value !== undefined);
  const url = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  // The second one says that a page of ours asks: no page of another site can set it.
  const headers = { accept: 'application/json', 'x-finhook-csrf': '1' };
  if (body !== undefined) headers['content-type'] = 'application/json';
  let answer;
  try {
    const sent = body === undefined ? undefined : JSON.stringify(body);
    answer = await fetch(url, { method, headers, body: sent, signal, redirect: 'error', credentials: 'same-origin' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'finhook does not answer', 'it may be restarting');
  }
  if (answer.status === 401 && path !== '/session') return logIn();
  const json = (answer.headers.get('content-type') ?? '').includes('json') ? await answer.json() : null;
  if (!answer.ok) {
    const wrong = (json?.errors ?? []).map((field) => `${field.parameter ?? field.pointer ?? ''} ${field.detail}`.trim());
    throw new Problem(answer.status, json?.title ?? `Answer ${answer.status}`, json?.detail ?? wrong.join('; '));
  }
  return json;
}
