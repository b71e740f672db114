// The stream of snapshots, and the truth about it: a page that no longer hears says since when.

import { at, write } from './dom.js';
import { clock } from './words.js';
import { ask, logIn } from './ask.js';

// A snapshot comes every 5 s. One that is late means nothing, two are a broken stream; after an error sooner.
const PATIENCE = 12_000;
const PATIENCE_AFTER_ERROR = 7_000;
const RETRY = 3_000;

/** Calls `hear` with each snapshot and `opened` whenever the stream opens; keeps the bar's pill and the banner true. */
export function listen(hear, opened = () => {}) {
  let heard = Date.now();
  let broken = false;
  const open = () => {
    const source = new EventSource('/live');
    source.addEventListener('snapshot', (event) => {
      heard = Date.now();
      broken = false;
      tell();
      hear(JSON.parse(event.data));
    });
    source.addEventListener('open', opened);
    source.onerror = () => {
      broken = true;
      // Closed: the server answered something else than a stream. Whether we may still look is asked first.
      if (source.readyState === EventSource.CLOSED) setTimeout(reopen, RETRY);
    };
  };
  const reopen = () => ask('/session').then(open, (problem) => (problem.status === 401 ? logIn() : setTimeout(reopen, RETRY)));
  const tell = () => {
    const stale = Date.now() - heard > (broken ? PATIENCE_AFTER_ERROR : PATIENCE);
    const pill = at('stream');
    pill.hidden = false;
    pill.className = stale ? 'pill warn' : 'pill good';
    write(pill, stale ? 'stale' : 'live');
    // Whether it is ready now nobody knows either.
    if (stale) at('ready').hidden = true;
    write(at('stale'), stale ? `Stale since ${clock(heard)} UTC: finhook is not heard any more. Trying again.` : '');
  };
  open();
  setInterval(tell, 500);
  // A page that comes back from the history has lost its stream.
  addEventListener('pageshow', (event) => event.persisted && location.reload());
}

/** Whether the process is ready, and if not, why and since when. */
export function readiness(checks) {
  const failing = checks.filter((check) => !check.ok);
  const pill = at('ready');
  pill.hidden = false;
  pill.className = failing.length ? 'pill long bad' : 'pill good';
  const why = failing.map((check) => `${check.name}: ${check.why}, since ${clock(check.since)} UTC`);
  write(pill, failing.length ? `not ready: ${why.join('; ')}` : 'ready');
}
