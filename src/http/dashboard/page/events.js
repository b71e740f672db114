// The table of events: filters that live in the address, pages by cursor, and acts on what is selected.

import { ask } from './ask.js';
import { confirmed } from './confirm.js';
import { at, cells, el, rows, say, show, write } from './dom.js';
import { listen, readiness } from './live.js';
import { ACTS, counted, decide } from './acts.js';
import { badge, OPEN, read, STATES } from './shapes.js';
import { count, events as some, moment } from './words.js';

const FIELDS = ['state', 'provider', 'kind', 'subject', 'since', 'until'];
const PER_PAGE = 50;

export async function events() {
  show('events');
  document.title = 'Events · finhook';
  const view = new Events();
  view.filterFromAddress();
  listen((sent) => {
    const now = read(sent);
    readiness(now.checks);
    view.noticed(now);
  });
  await view.load();
}

class Events {
  /** Cursors of the pages before this one; the first page has none. */
  trail = [];
  cursor = null;
  next = null;
  list = [];
  chosen = new Set();
  /** Whether the selection is everything that the filter lets through, not ids. */
  everything = null;
  seen = null;
  asking = null;

  constructor() {
    const act = (id, does) => at(id).addEventListener('click', () => does());
    at('filters').addEventListener('submit', (event) => this.submit(event));
    at('select-page').addEventListener('change', (event) => this.choosePage(event.target.checked));
    act('again', () => this.load());
    addEventListener('popstate', () => {
      this.filterFromAddress();
      this.turn([], null);
    });
    act('newest', () => this.turn([], null));
    act('newer', () => this.turn(this.trail.slice(0, -1), this.trail.at(-1)));
    act('older', () => this.turn([...this.trail, this.cursor], this.next));
    act('select-all', () => this.chooseAll());
    act('requeue', () => this.act('requeue'));
    act('discard', () => this.act('discard'));
  }

  filterFromAddress() {
    const given = new URLSearchParams(location.search);
    at('f-state').replaceChildren(option('', 'any'), ...STATES.map((state) => option(state, state)));
    const provider = given.get('provider') ?? '';
    at('f-provider').replaceChildren(option('', 'any'), ...(provider ? [option(provider, provider)] : []));
    for (const field of FIELDS) at(`f-${field}`).value = given.get(field) ?? '';
  }

  /** What the address says, as /v1 asks for it. */
  get filter() {
    const given = new URLSearchParams(location.search);
    const filter = Object.fromEntries(FIELDS.map((field) => [field, given.get(field) ?? '']).filter(([, value]) => value));
    for (const field of ['since', 'until']) if (filter[field]) filter[field] = utc(filter[field]);
    return filter;
  }

  /** The same without the state: each state has its own acts. */
  get narrowed() {
    const { state, ...others } = this.filter;
    return others;
  }

  submit(event) {
    event.preventDefault();
    const given = FIELDS.map((field) => [field, at(`f-${field}`).value.trim()]).filter(([, value]) => value);
    history.pushState(null, '', given.length ? `/events?${new URLSearchParams(given)}` : '/events');
    this.turn([], null);
  }

  async turn(trail, cursor) {
    Object.assign(this, { trail, cursor });
    await this.load();
    at('list-title').focus();
  }

  async load() {
    // The page of an event leads back to this list.
    sessionStorage.setItem('list', location.search);
    this.choose(() => this.chosen.clear());
    at('list-problem').textContent = at('list-done').textContent = '';
    this.asking?.abort();
    const { signal } = (this.asking = new AbortController());
    try {
      const answer = await ask('/v1/events', { query: { ...this.filter, limit: PER_PAGE, cursor: this.cursor }, signal });
      Object.assign(this, { list: answer.events, next: answer.next ?? null });
    } catch (problem) {
      // A later question is on its way.
      if (signal.aborted) return;
      Object.assign(this, { list: [], next: null });
      at('list-problem').textContent = problem.message;
    }
    this.seen = null;
    at('changed').hidden = true;
    this.draw();
    say(`${some(this.list.length)} on this page`);
  }

  draw() {
    rows(at('events').tBodies[0], this.list, (event) => event.id, (row, event) => {
      const open = OPEN.includes(event.state);
      const name = `${event.kind ?? 'unread'} of ${event.provider}, received ${moment(event.received_at)}`;
      const box = el('input', { type: 'checkbox', 'aria-label': `Select ${name}`, onchange: (change) => this.choose(() => this.chosen[change.target.checked ? 'add' : 'delete'](event.id)) });
      cells(row,
        el('td', {}, open ? box : null),
        el('td', {}, badge(event.state)),
        el('td', { title: event.kind }, el('a', { href: `/events/${event.id}`, 'aria-label': name }, event.kind ?? 'unread')),
        el('td', {}, event.provider),
        el('td', {}, el('time', { datetime: event.received_at }, moment(event.received_at))),
        el('td', { title: event.reason }, event.reason ?? ''),
        el('td', { title: event.subject }, event.subject ?? ''),
        el('td', { class: event.attempts ? 'n' : 'n zero' }, count(event.attempts)));
    });
    at('none').hidden = this.list.length > 0 || at('list-problem').textContent !== '';
    at('newest').disabled = at('newer').disabled = this.cursor === null;
    at('older').disabled = this.next === null;
    at('page').textContent = `Page ${this.trail.length + 1}`;
    this.drawSelection();
  }

  choose(change) {
    this.everything = null;
    change();
    this.drawSelection();
  }

  choosePage(checked) {
    const open = this.list.filter((event) => OPEN.includes(event.state)).map((event) => event.id);
    this.choose(() => { this.chosen = new Set(checked ? open : []); });
  }

  /** Everything that the filter lets through, on all pages: counted by the server before anything is asked. */
  async chooseAll() {
    try {
      this.everything = await counted(this.filter.state, this.narrowed);
      this.drawSelection();
    } catch (problem) {
      at('list-problem').textContent = problem.message;
    }
  }

  drawSelection() {
    const boxes = [...at('events').querySelectorAll('tbody input')];
    for (const box of boxes) {
      const row = box.closest('tr');
      box.checked = this.everything !== null || this.chosen.has(row.dataset.key);
      row.classList.toggle('chosen', box.checked);
    }
    const page = at('select-page');
    page.disabled = boxes.length === 0;
    page.checked = boxes.length > 0 && boxes.every((box) => box.checked);
    page.indeterminate = !page.checked && boxes.some((box) => box.checked);
    const number = this.everything ?? this.chosen.size;
    write(at('selected'), number ? `${some(number)} selected` : 'Nothing selected');
    at('requeue').disabled = at('discard').disabled = number === 0;
    const more = OPEN.includes(this.filter.state) && page.checked && (this.next !== null || this.cursor !== null);
    at('select-all').hidden = !more || this.everything !== null;
    at('select-all').textContent = `Select every ${this.filter.state} event that matches, on all pages`;
  }

  async act(name) {
    const byState = this.everything === null ? this.byState() : { [this.filter.state]: { filter: this.narrowed } };
    const number = this.everything ?? this.chosen.size;
    const done = await confirmed(ACTS[name].question(number), () => decide(name, byState));
    if (done === null) return;
    await this.load();
    say(done);
    at('list-done').textContent = done;
    at('list-title').focus();
  }

  /** The chosen ids by state. */
  byState() {
    const chosen = this.list.filter((event) => this.chosen.has(event.id));
    const of = (state) => chosen.filter((event) => event.state === state).map((event) => event.id);
    return Object.fromEntries(OPEN.map((state) => [state, { ids: of(state) }]).filter(([, { ids }]) => ids.length));
  }

  /** A snapshot came: says so if counts moved since the list was read; the list itself never jumps. */
  noticed(now) {
    const select = at('f-provider');
    for (const provider of now.providers) {
      if (![...select.options].some((held) => held.value === provider)) select.append(option(provider, provider));
    }
    const counts = JSON.stringify(now.pending.map((entry) => [entry.provider, entry.state, entry.count]));
    if (this.seen !== null && this.seen !== counts) at('changed').hidden = false;
    this.seen = counts;
  }
}

const option = (value, text) => el('option', { value }, text);

/** What `datetime-local` holds, taken as UTC: the times in the table are UTC too. */
const utc = (local) => (local.length === 16 ? `${local}:00Z` : `${local}Z`);
