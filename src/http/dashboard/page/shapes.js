// From what the server sends to what the views draw: the only file that knows both.

import { el } from './dom.js';

// Queues that are no provider's: what a plot calls them, and their look.
const OTHERS = {
  unrouted: ['unrouted', 's4 dashed'],
  dead: ['dead letters', 's5 dashed'],
  spool: ['spool', 's6 dashed'],
  retrying: ['retrying', 's7 dashed'],
};

/** A snapshot, as `/live` sends it. */
export function read({ snapshot, checks }) {
  const last = (queue) => queue.queue.split('.').at(-1);
  const isOther = (queue) => last(queue) in OTHERS;
  // Providers by name, so that each has the same colour in every process; then the others as they come.
  const providers = snapshot.queues.filter((queue) => !isOther(queue)).sort((one, other) => (one.queue < other.queue ? -1 : 1));
  const queues = [...providers, ...snapshot.queues.filter(isOther)].map((queue, place) => {
    const [label, look] = OTHERS[last(queue)] ?? [last(queue), `s${place % 4}`];
    return {
      name: queue.queue,
      label,
      look,
      ready: queue.ready,
      unacked: queue.unacked,
      consumers: queue.consumers,
      incoming: queue.in_per_second,
      outgoing: queue.out_per_second,
      lag: queue.lag_seconds,
    };
  });
  const { intake, work } = snapshot;
  return {
    at: Date.parse(snapshot.at),
    checks,
    queues,
    queuesAt: snapshot.queues_at && Date.parse(snapshot.queues_at),
    // Deliveries: what is retried are events, and has a figure of its own.
    waiting: snapshot.queues_at ? queues.reduce((sum, queue) => sum + (queue.name === 'retrying' ? 0 : depth(queue)), 0) : null,
    pending: snapshot.pending,
    pendingAt: snapshot.pending_at && Date.parse(snapshot.pending_at),
    providers: [...new Set(snapshot.pending.map((entry) => entry.provider))],
    receives: intake !== null,
    works: work !== null,
    accepted: intake?.accepted_per_second ?? null,
    refused: intake?.not_accepted_per_second ?? null,
    refusals: refusals(intake),
    ack: intake?.ack ?? {},
    committed: work?.events_per_second ?? null,
    latency: work?.latency ?? {},
    lastCommit: work?.last_commit ? Date.parse(work.last_commit) : null,
  };
}

/** By provider and reason: for proofs that did not hold the reason of that, for everything else the outcome. */
function refusals(intake) {
  if (!intake) return [];
  const others = intake.refusals.filter((entry) => entry.reason !== 'refused');
  return [...intake.verification_failures, ...others].map(({ provider, reason, total, last_minute: minute }) => ({ provider, reason, total, minute }));
}

/** The last hour, point by point: loaded whenever the stream opens, so that no gap stays, and added to. */
export function remember() {
  const points = [];
  const add = (point) => {
    if (points.length && point.at <= points.at(-1).at) return;
    points.push(point);
    const old = point.at - 3_600_000;
    while (points.length && points[0].at < old) points.shift();
  };
  return {
    load: (samples) => {
      points.length = 0;
      samples.forEach((sample) => add(past(sample)));
    },
    add: (now) => add({
      at: now.at,
      // Of a broker that does not answer nothing is known now, whatever it said last.
      depths: now.queuesAt === now.at ? Object.fromEntries(now.queues.map((queue) => [queue.name, depth(queue)])) : {},
      accepted: now.accepted,
      refused: now.refused,
      committed: now.committed,
      ack: now.ack.p95 ?? null,
      latency: now.latency.p95 ?? null,
    }),
    get times() { return points.map((point) => point.at); },
    depths: (queue) => points.map((point) => point.depths[queue] ?? null),
    values: (which) => points.map((point) => point[which] ?? null),
  };
}

function past(sample) {
  return {
    at: Date.parse(sample.at),
    depths: Object.fromEntries(sample.queues.map((level) => [level.queue, level.depth])),
    accepted: sample.accepted_per_second,
    refused: sample.not_accepted_per_second,
    committed: sample.events_per_second,
    ack: sample.ack_p95,
    latency: sample.latency_p95,
  };
}

const depth = (queue) => queue.ready + (queue.unacked ?? 0);

const LOOKS = { applied: 'good', recorded: '', unlinked: 'warn', retrying: 'info', dead: 'bad' };

/** The states in the order in which they are offered. */
export const STATES = Object.keys(LOOKS);

/** States in which a person may decide. */
export const OPEN = ['unlinked', 'dead'];

/** A state as a badge. */
export const badge = (state) => el('span', { class: `state ${LOOKS[state] ?? ''}` }, state);
