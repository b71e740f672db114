// The log-in: the token goes into the body of one request and is forgotten.

import { ask } from './ask.js';
import { at, show } from './dom.js';

export function login() {
  show('login');
  document.title = 'Log in · finhook';
  const token = at('token');
  token.focus();
  at('login').addEventListener('submit', async (event) => {
    event.preventDefault();
    at('login-problem').textContent = '';
    try {
      await ask('/session', { method: 'POST', body: { token: token.value } });
      location.replace(wanted());
    } catch (problem) {
      at('login-problem').textContent = problem.status === 401 ? 'This token is not valid.' : problem.message;
      token.value = '';
      token.focus();
    }
  });
}

/** Where to go on: a path of this page, never another site. */
function wanted() {
  const to = new URL(new URLSearchParams(location.search).get('to') ?? '/', location.origin);
  return to.origin === location.origin ? to.pathname + to.search : '/';
}
