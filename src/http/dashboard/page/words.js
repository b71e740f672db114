// Numbers and times as people read them. Times are UTC, as in the logs.

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** 12,345; nothing known: an en dash. */
export const count = (value) => (known(value) ? whole.format(value) : '–');

/** A rate: three digits that count. */
export function rate(value) {
  if (!known(value)) return '–';
  if (value === 0) return '0';
  if (value < 0.01) return '<0.01';
  return value < 10 ? String(Number(value.toFixed(2))) : value < 100 ? value.toFixed(1) : whole.format(value);
}

/** A short time given in seconds: 0.8 ms, 12 ms, 1.4 s. */
export function latency(seconds) {
  if (!known(seconds)) return '–';
  if (seconds >= 60) return age(seconds);
  if (seconds >= 1) return `${Number(seconds.toFixed(1))} s`;
  const milliseconds = seconds * 1000;
  return `${milliseconds < 10 ? Number(milliseconds.toFixed(1)) : Math.round(milliseconds)} ms`;
}

/** A long time given in seconds, in its two largest units. */
export function age(seconds) {
  if (!known(seconds)) return '–';
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [name, size] of units) {
    const whole = Math.floor(left / size);
    left -= whole * size;
    if (whole > 0) parts.push(`${whole} ${name}`);
    else if (parts.length) break;
  }
  return parts.slice(0, 2).join(' ') || '0 s';
}

/** 12:34:56 of a time in milliseconds. */
export const clock = (at) => new Date(at).toISOString().slice(11, 19);
/** 12:34 */
export const minute = (at) => new Date(at).toISOString().slice(11, 16);
/** 2026-11-25 12:34:56 */
export const moment = (at) => new Date(at).toISOString().slice(0, 19).replace('T', ' ');

/** 1 event, 2 events. */
export const events = (number) => `${count(number)} ${number === 1 ? 'event' : 'events'}`;

function known(value) {
  return typeof value === 'number' && Number.isFinite(value);
}
