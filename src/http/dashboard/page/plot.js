// A plot of one hour: lines, a cursor for pointer, finger and keyboard, a sentence that sums it up, and a table.

import { el, svg } from './dom.js';
import { minute } from './words.js';

const HOUR = 3_600_000;
const TABLE_STEP = 300_000;
// How many steps the cursor has in an hour: one each 5 s, as there are samples.
const STEPS = 720;
const PAD = { left: 52, right: 8, top: 8, bottom: 20 };

/** A plot in `place`. `shown` writes a value, `sum` makes the sentence,
    `least` is the smallest top of the axis. */
export class Plot {
  constructor(place, { name, shown, sum, least = 4 }) {
    Object.assign(this, { shown, sum, least, wanted: null, series: [], times: [] });
    this.drawing = svg('svg', { 'aria-hidden': 'true', focusable: 'false' });
    this.range = el('input', { type: 'range', min: 0, max: STEPS, value: STEPS, 'aria-label': `${name}: look at a time` });
    this.keys = el('figcaption');
    this.table = el('table');
    const caption = el('summary', {}, 'As a table');
    const scroll = el('div', { class: 'scroll', role: 'group', 'aria-label': `${name} as a table`, tabindex: 0 }, this.table);
    this.details = el('details', { ontoggle: () => this.tabulate() }, caption, scroll);
    place.replaceChildren(el('figure', { class: 'plot' }, this.keys, this.drawing, this.range, this.details));
    this.range.addEventListener('input', () => this.look(this.until() - (STEPS - Number(this.range.value)) * (HOUR / STEPS)));
    this.range.addEventListener('blur', () => this.look(null));
    this.drawing.addEventListener('pointermove', (event) => this.point(event));
    this.drawing.addEventListener('pointerleave', () => this.look(null));
    new ResizeObserver(() => this.draw()).observe(this.drawing);
  }

  /** New data: `times` in milliseconds, oldest first, and per series a name, a class and as many values (null = unknown). */
  update(times, series) {
    Object.assign(this, { times, series });
    this.draw();
    this.tabulate();
  }

  until() {
    return this.times.at(-1) ?? Date.now();
  }

  /** Looks at a time; null: at now. */
  look(wanted) {
    this.wanted = wanted;
    this.draw();
  }

  point(event) {
    const box = this.drawing.getBoundingClientRect();
    this.look(this.until() - HOUR + ((event.clientX - box.left - PAD.left) / (box.width - PAD.left - PAD.right)) * HOUR);
  }

  /** The place of the sample that is nearest to the time that is looked at; null: now. */
  cursor() {
    if (this.wanted === null || !this.times.length) return null;
    const far = (place) => Math.abs(this.times[place] - this.wanted);
    return this.times.reduce((best, _, place) => (far(place) < far(best) ? place : best), 0);
  }

  draw() {
    const { width, height } = this.drawing.getBoundingClientRect();
    if (width < 80 || height < 40) return;
    this.drawing.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const until = this.until();
    const most = this.series.reduce((most, line) => line.values.reduce((one, value) => Math.max(one, value ?? 0), most), this.least);
    const step = nice(most / (height > 160 ? 4.5 : 2.5));
    const top = Math.ceil(most / step - 1e-9) * step;
    const x = (time) => PAD.left + (width - PAD.left - PAD.right) * (1 - (until - time) / HOUR);
    const y = (value) => height - PAD.bottom - (height - PAD.bottom - PAD.top) * (value / top);
    const parts = [];
    for (let value = 0; value <= top * 1.001; value += step) {
      parts.push(svg('line', { class: 'rule', x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }));
      parts.push(svg('text', { x: PAD.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, value === 0 ? '0' : this.shown(value).replace(/\.0$/, '')));
    }
    const every = width > 520 ? 600_000 : width > 300 ? 900_000 : 1_800_000;
    for (let time = Math.ceil((until - HOUR) / every) * every; time <= until; time += every) {
      if (x(time) < PAD.left + 12 || x(time) > width - PAD.right - 12) continue;
      parts.push(svg('text', { x: x(time), y: height - 4, 'text-anchor': 'middle' }, minute(time)));
    }
    for (const line of this.series) {
      parts.push(...strokes(this.times, line, x, y, height - PAD.bottom, this.series.length === 1));
    }
    const cursor = this.cursor();
    if (cursor !== null) {
      const at = x(this.times[cursor]);
      parts.push(svg('line', { class: 'cursor', x1: at, x2: at, y1: PAD.top, y2: height - PAD.bottom }));
    }
    this.range.value = cursor === null ? STEPS : Math.round(STEPS - (until - this.times[cursor]) / (HOUR / STEPS));
    this.drawing.replaceChildren(...parts);
    this.label(cursor);
  }

  label(cursor) {
    const place = cursor ?? this.times.length - 1;
    const when = cursor === null ? 'Now' : minute(this.times[place]);
    const value = (line) => this.shown(line.values[place] ?? null);
    const keys = this.series.map((line) => {
      const swatch = el('span', { class: `swatch ${line.look}`, 'aria-hidden': 'true' });
      return el('span', { class: 'key' }, swatch, `${line.name} `, el('b', {}, value(line)));
    });
    const sentence = cursor === null ? this.sum(this.times, this.series) : `At ${when} UTC`;
    this.keys.replaceChildren(el('span', { class: 'summary' }, sentence), ...keys);
    const spoken = this.series.map((line) => `${line.name} ${value(line)}`).join(', ');
    this.range.setAttribute('aria-valuetext', `${when}: ${spoken || 'nothing measured yet'}`);
  }

  tabulate() {
    if (!this.details.open) return;
    const picked = [];
    this.times.forEach((time, place) => {
      const previous = picked.length ? this.times[picked.at(-1)] : -Infinity;
      if (Math.floor(time / TABLE_STEP) > Math.floor(previous / TABLE_STEP)) picked.push(place);
    });
    const last = this.times.length - 1;
    if (last >= 0 && picked.at(-1) !== last) picked.push(last);
    const head = ['Time (UTC)', ...this.series.map((line) => line.name)];
    const when = (place) => (place === last ? 'now' : minute(this.times[place]));
    const row = (place) => el('tr', {}, el('th', { scope: 'row' }, when(place)),
      ...this.series.map((line) => el('td', { class: 'n' }, this.shown(line.values[place] ?? null))));
    this.table.replaceChildren(
      el('thead', {}, el('tr', {}, ...head.map((name, place) => el('th', { scope: 'col', class: place ? 'n' : null }, name)))),
      el('tbody', {}, ...picked.reverse().map(row)));
  }
}

/** A line, broken where nothing is known; alone in its plot it stands on an area. */
function strokes(times, line, x, y, ground, alone) {
  const parts = [];
  let run = [];
  const finish = () => {
    if (run.length) {
      const d = run.map(([time, value], place) => `${place ? 'L' : 'M'}${x(time).toFixed(1)} ${y(value).toFixed(1)}`).join('');
      const [first, last] = [x(run[0][0]).toFixed(1), x(run.at(-1)[0]).toFixed(1)];
      if (alone) parts.push(svg('path', { class: `area ${line.look}`, d: `${d}L${last} ${ground}L${first} ${ground}Z` }));
      parts.push(svg('path', { class: `line ${line.look}`, d: run.length === 1 ? `${d}h1` : d }));
    }
    run = [];
  };
  times.forEach((time, place) => {
    const value = line.values[place];
    const gap = place > 0 && time - times[place - 1] > 60_000;
    if (value === null || value === undefined || gap) finish();
    if (value !== null && value !== undefined && x(time) >= PAD.left) run.push([time, value]);
  });
  finish();
  return parts;
}

/** The next 1, 2, 2.5 or 5 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}
