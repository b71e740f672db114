// One event: what is known of it, its way through finhook, the rows it changed, and what can be decided. No payload.

import { ACTS, decide } from './acts.js';
import { ask } from './ask.js';
import { confirmed } from './confirm.js';
import { at, el, say, show, write } from './dom.js';
import { listen, readiness } from './live.js';
import { badge, OPEN, read } from './shapes.js';
import { age, count, latency, moment } from './words.js';

export async function event(id) {
  show('event');
  document.title = 'Event · finhook';
  at('back').href = `/events${sessionStorage.getItem('list') ?? ''}`;
  let known = null;
  const load = async () => {
    try {
      const answer = await ask(`/v1/events/${encodeURIComponent(id)}`);
      if (known !== null && known.event.state !== answer.event.state) say(`Now ${answer.event.state}`);
      known = answer;
      write(at('event-problem'), '');
      draw(known);
    } catch (problem) {
      write(at('event-problem'), problem.status === 404 ? 'There is no event with this id.' : problem.message);
    }
  };
  for (const name of Object.keys(ACTS)) {
    at(name).addEventListener('click', async () => {
      const done = await confirmed(ACTS[name].question(1), () => decide(name, { [known.event.state]: { ids: [id] } }));
      if (done === null) return;
      await load();
      say(done);
      write(at('event-done'), done);
      at('kind').focus();
    });
  }
  await load();
  // Each snapshot is a reason to look again: one small read, and only what differs is drawn.
  listen((sent) => {
    readiness(read(sent).checks);
    load();
  });
}

const time = (value) => (value ? el('time', { datetime: value }, `${moment(value)} UTC`) : null);

function draw({ event, lineage, help, payload_bytes: bytes, age_seconds: seconds }) {
  write(at('kind'), event.kind ?? 'An event that could not be read');
  document.title = `${event.kind ?? 'Event'} · finhook`;
  swap(at('state'), badge(event.state));
  for (const name of Object.keys(ACTS)) at(name).hidden = !OPEN.includes(event.state);
  const facts = [
    ['Id', el('span', { class: 'id' }, event.id)],
    ['Provider', event.provider],
    ['Subject', event.subject ?? 'none'],
    ['Happened', time(event.occurred_at)],
    ['Age', age(seconds)],
    ['Why', event.reason],
    ['What helps', help ?? HELP[event.state]],
    ['Dedup key', el('span', { class: 'id' }, event.dedup_key)],
    ['Payload', bytes ? `${count(bytes)} bytes, sealed: it is not shown here` : 'wiped'],
  ].filter(([, value]) => value);
  swap(at('facts'), ...facts.flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
  swap(at('way'), ...way(event, lineage));
  const none = lineage.unreadable ? `Not known: ${spoken(lineage.unreadable)}.` : 'None.';
  swap(at('rows'), lineage.rows.length ? table(lineage.rows) : el('p', { class: 'empty' }, none));
  write(at('rows-title'), event.state === 'applied' ? 'Rows it changed' : 'Rows it is about');
}

// What helps where no reason of the server says it.
const HELP = {
  unlinked: 'say whose its subject is (`finhook link`): it is applied in that same transaction',
  retrying: 'nothing has to be done: it is due again by itself',
};

const spoken = (name) => name.replaceAll('_', ' ');

function way(event, lineage) {
  const step = (look, name, when, ...more) =>
    el('li', { class: look || null }, el('b', {}, name), el('span', {}, [when && `${moment(when)} UTC`, ...more].filter(Boolean).join(' · ')));
  const took = (Date.parse(lineage.committed_at) - Date.parse(lineage.received_at)) / 1000;
  const tried = lineage.attempts;
  const ends = {
    applied: ['', 'Committed', 'its changes are in the tables'],
    recorded: event.reason === 'discarded'
      ? ['open', 'Discarded', 'by a person: it changes nothing']
      : ['', 'Committed', event.reason ? `recorded: ${spoken(event.reason)}` : 'recorded: it changes nothing'],
    unlinked: ['warn', 'Waiting for a user', 'nobody has said whose its subject is'],
    retrying: ['open', 'Retrying', lineage.next_attempt_at && `due again at ${moment(lineage.next_attempt_at)} UTC`],
    dead: ['bad', 'Dead', 'a person decides'],
  };
  const [look, name, more] = ends[event.state] ?? ['', event.state, null];
  return [
    step('', 'Received', lineage.received_at, lineage.proof && `proved by ${lineage.proof}`, lineage.bound && 'at the URL of one user'),
    step('', 'Queued', null, lineage.delivery_id ? `as delivery ${lineage.delivery_id}` : 'its delivery cannot be opened now'),
    tried > 0 ? step('warn', `${count(tried)} ${tried === 1 ? 'attempt' : 'attempts'} failed`, null, event.reason && spoken(event.reason)) : null,
    step(look, name, lineage.committed_at, `${latency(Math.max(0, took))} after its receipt`, more),
  ].filter(Boolean);
}

function table(changed) {
  const head = el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'Table'), el('th', { scope: 'col' }, 'Row')));
  const row = ({ table: name, id }) => el('tr', {}, el('th', { scope: 'row' }, name), el('td', { class: 'id' }, id));
  return el('table', {}, head, el('tbody', {}, ...changed.map(row)));
}

/** Replaces children only if they say something else. */
function swap(place, ...made) {
  const same = made.length === place.children.length && made.every((child, index) => child.isEqualNode(place.children[index]));
  if (!same) place.replaceChildren(...made);
}
