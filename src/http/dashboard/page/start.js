// The way in: who is asking, which view the path names, and the bar that all views share.

import { ask, logIn } from './ask.js';
import { at } from './dom.js';
import { login } from './login.js';
import { overview } from './overview.js';
import { events } from './events.js';
import { event } from './event.js';

const path = location.pathname;

if (path === '/login') {
  login();
} else {
  begin();
}

async function begin() {
  let session;
  try {
    session = await ask('/session');
  } catch (problem) {
    if (problem.status === 401) return logIn();
    at('main').textContent = problem.message;
    return;
  }
  for (const link of at('views').children) {
    const here = link.pathname === '/' ? path === '/' : path.startsWith(link.pathname);
    if (here) link.setAttribute('aria-current', 'page');
  }
  const mayLook = session.roles.includes('ops');
  at('views').hidden = !mayLook;
  if (!mayLook) {
    at('main').textContent = 'This token has not the role ops, which the dashboard needs. Log out and use another one.';
    at('main').className = 'empty';
  }
  at('leave').hidden = session.by !== 'session';
  at('leave').addEventListener('click', async () => {
    await ask('/session', { method: 'DELETE' });
    location.replace('/login');
  });
  if (!mayLook) return;
  if (path === '/') overview();
  else if (path === '/events') events();
  else event(decodeURIComponent(path.slice('/events/'.length)));
}
