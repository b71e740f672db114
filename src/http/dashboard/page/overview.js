// The overview: what waits, how fast it moves, and what only a person can settle.

import { ask } from './ask.js';
import { at, cells, el, rows, say, show, write } from './dom.js';
import { listen, readiness } from './live.js';
import { Plot } from './plot.js';
import { read, remember } from './shapes.js';
import { age, clock, count, latency, minute, rate } from './words.js';

// What says that somebody should look: a lag in seconds.
const LATE = 60;
// How far the last answer of queue or database may lie back, in milliseconds.
const OLD = 20_000;

export function overview() {
  show('overview');
  document.title = 'finhook';
  const plots = drawings();
  const history = remember();
  let now = null;
  const hear = (sent) => {
    now = read(sent);
    readiness(now.checks);
    figures(now);
    queues(now);
    people(now);
    refusals(now);
    history.add(now);
    draw(plots, history, now);
    speak(now);
    const title = now.waiting > 0 ? `${count(now.waiting)} waiting · finhook` : 'finhook';
    if (document.title !== title) document.title = title;
  };
  const load = async () => {
    try {
      history.load((await ask('/v1/queues/history')).samples);
      if (now === null) return;
      history.add(now);
      draw(plots, history, now);
    } catch (problem) {
      say(problem.message);
    }
  };
  listen(hear, load);
}

function figures(now) {
  const of = (state) => now.pending.filter((entry) => entry.state === state);
  const total = (state) => (now.pendingAt ? of(state).reduce((sum, entry) => sum + entry.count, 0) : null);
  const oldest = (state) => {
    if (!now.pendingAt) return 'not by this process';
    if (!total(state)) return 'none';
    const text = `oldest ${age(Math.max(...of(state).map((entry) => entry.age_seconds)))}`;
    return el('a', { href: `/events?state=${state}`, 'aria-label': `${state} events, ${text}` }, text);
  };
  const lag = Math.max(0, ...now.queues.map((queue) => queue.lag ?? 0));
  const idle = now.queues.some((queue) => queue.ready > 0 && queue.consumers === 0);
  const pace = !now.waiting ? 'all queues are empty' : idle ? 'no worker is connected' : lag >= 1 ? `lag ${age(lag)}` : 'being worked on';
  const refused = now.refusals.reduce((sum, entry) => sum + entry.total, 0);
  const list = [
    ['waiting', 'Waiting', count(now.waiting), '', now.queuesAt ? pace : 'the queue does not answer', idle || lag > LATE ? 'warn' : ''],
    ['accepted', 'Accepted', rate(now.accepted), '/s', now.receives ? lately(now.ack, `ack ${latency(now.ack.p50)} · p95 ${latency(now.ack.p95)}`) : 'not by this process', ''],
    ['refused', 'Refused', rate(now.refused), '/s', now.receives ? `${count(refused)} in all` : 'not by this process', now.refused > 0 ? 'warn' : ''],
    ['latency', 'Event latency', latency(now.latency.p50), '', now.works ? lately(now.latency, `p95 ${latency(now.latency.p95)} · ${rate(now.committed)}/s`) : 'not by this process', ''],
    ['unlinked', 'Unlinked', count(total('unlinked')), '', oldest('unlinked'), ''],
    ['retrying', 'Retrying', count(total('retrying')), '', oldest('retrying'), total('retrying') ? 'warn' : ''],
    ['dead', 'Dead', count(total('dead')), '', oldest('dead'), total('dead') ? 'bad' : ''],
  ];
  rows(at('figures'), list, ([key]) => key, (tile, [, name, value, unit, more, alarm]) => {
    tile.className = alarm ? `is-${alarm}` : '';
    const written = el('dd', { class: 'value' }, value, unit && value !== '–' ? el('small', {}, unit) : null);
    cells(tile, el('dt', {}, name), written, el('dd', { class: 'more' }, more));
  }, 'div');
}

function queues(now) {
  rows(at('queues').tBodies[0], now.queues, (queue) => queue.name, (row, queue) => {
    const number = (value, text, alarm) => el('td', { class: `n${value ? '' : ' zero'}${alarm ? ' alarm' : ''}` }, text);
    const unread = queue.consumers === 0 && queue.ready > 0;
    cells(row,
      el('th', { scope: 'row' }, el('span', { class: `swatch ${queue.look}`, 'aria-hidden': 'true' }), queue.name),
      number(queue.ready, count(queue.ready)), number(queue.unacked, count(queue.unacked)),
      number(queue.consumers, count(queue.consumers), unread), number(queue.incoming, rate(queue.incoming)),
      number(queue.outgoing, rate(queue.outgoing)), number(queue.lag, age(queue.lag), queue.lag > LATE));
  });
  old(at('queues-old'), now.queuesAt, now.at, 'The queue has not answered yet.');
}

function people(now) {
  rows(at('people').tBodies[0], now.providers, (provider) => provider, (row, provider) => {
    const of = (state) => now.pending.find((entry) => entry.provider === provider && entry.state === state);
    const number = (state) => {
      const value = of(state)?.count ?? 0;
      if (!value) return el('td', { class: 'n zero' }, count(value));
      const label = `${count(value)} ${state} of ${provider}`;
      return el('td', { class: 'n' }, el('a', { href: `/events?${new URLSearchParams({ state, provider })}`, 'aria-label': label }, count(value)));
    };
    const oldest = (state) => el('td', { class: 'n zero' }, of(state)?.count ? age(of(state).age_seconds) : '–');
    cells(row, el('th', { scope: 'row' }, provider), number('unlinked'), oldest('unlinked'), number('dead'), oldest('dead'), number('retrying'));
  });
  old(at('people-old'), now.pendingAt, now.at, 'This process does not look at the tables: open the page of one that works.');
}

/** Percentiles are of the last minutes; of nothing there are none. */
const lately = (percentiles, text) => (percentiles.count ? text : 'none lately');

/** What is not of now says so, and of when it is. */
function old(place, asked, now, never) {
  const late = asked && now - asked > OLD;
  place.hidden = Boolean(asked) && !late;
  write(place, late ? `As of ${clock(asked)} UTC: no answer since.` : never);
}

function refusals(now) {
  const list = now.refusals.filter((entry) => entry.total > 0).sort((one, other) => other.minute - one.minute || other.total - one.total);
  at('none-refused').hidden = list.length > 0;
  at('refused').hidden = list.length === 0;
  rows(at('refused').tBodies[0], list, (entry) => `${entry.provider} ${entry.reason}`, (row, entry) => {
    cells(row, el('th', { scope: 'row' }, entry.provider), el('td', {}, entry.reason.replaceAll('_', ' ')),
      el('td', { class: entry.minute ? 'n' : 'n zero' }, count(entry.minute)), el('td', { class: 'n' }, count(entry.total)));
  });
}

function drawings() {
  const most = (shown) => (times, series) => {
    const all = series.flatMap((line) => line.values.map((value, place) => [value ?? 0, times[place]]));
    const [peak, when] = all.reduce((best, entry) => (entry[0] > best[0] ? entry : best), [0, null]);
    return when === null ? 'Nothing in the last hour.' : `Most: ${shown(peak)} at ${minute(when)} UTC`;
  };
  return {
    depth: new Plot(at('depth'), { name: 'Waiting in the queues', shown: count, sum: most(count) }),
    flow: new Plot(at('flow'), { name: 'Per second', shown: rate, sum: most(rate) }),
    ack: new Plot(at('ack'), { name: 'Ack latency', shown: latency, sum: most(latency), least: 0.004 }),
    latency: new Plot(at('latency'), { name: 'Event latency', shown: latency, sum: most(latency), least: 0.004 }),
  };
}

function draw(plots, history, now) {
  const { times } = history;
  const line = (name, look, which) => ({ name, look, values: history.values(which) });
  plots.depth.update(times, now.queues.map(({ name, label, look }) => ({ name: label, look, values: history.depths(name) })));
  plots.flow.update(times, [
    line('accepted', 's0', 'accepted'), line('refused', 's1', 'refused'), line('events committed', 's2', 'committed'),
  ]);
  plots.ack.update(times, [line('p95', 's0', 'ack')]);
  plots.latency.update(times, [line('p95', 's2', 'latency')]);
}

// Spoken at most once a minute, and only what a person would be called for.
let spoken = { at: 0, text: '' };
function speak(now) {
  const dead = now.pending.reduce((sum, entry) => sum + (entry.state === 'dead' ? entry.count : 0), 0);
  const text = `${count(now.waiting)} waiting, ${count(dead)} dead.`;
  if (text === spoken.text || Date.now() - spoken.at < 60_000) return;
  spoken = { at: Date.now(), text };
  say(text);
}
