// What a person can decide about events that wait for one: take them through again, or settle them.

import { ask } from './ask.js';
import { count, events } from './words.js';

/** The acts: what is asked before, and how it reads when it is done. */
export const ACTS = {
  requeue: {
    question: (number) => ({
      title: `Requeue ${events(number)}?`,
      text: `${number === 1 ? 'It goes' : 'They go'} through finhook again with the original time. A row never moves backwards, and nothing is counted twice.`,
      yes: `Requeue ${events(number)}`,
    }),
    done: (number) => `${events(number)} requeued.`,
  },
  discard: {
    question: (number) => ({
      title: `Discard ${events(number)}?`,
      text: `${number === 1 ? 'It stays' : 'They stay'} in the table as recorded, reason discarded, and ${number === 1 ? 'changes' : 'change'} nothing. Who did it is written down.`,
      yes: `Discard ${events(number)}`,
      harmful: true,
    }),
    done: (number) => `${events(number)} discarded.`,
  },
};

/** How many events in this state a filter reaches on all pages, without touching any. */
export async function counted(state, filter) {
  const answer = await ask(`/v1/${state}/requeue`, { method: 'POST', body: { filter, dry_run: true } });
  return answer.selected;
}

/** Carries an act out, by state: `{ ids }` or `{ filter }`. Large ones go in portions. The sentence that says what was done. */
export async function decide(name, byState) {
  let done = 0;
  const left = [];
  for (const [state, which] of Object.entries(byState)) {
    let after;
    do {
      const answer = await ask(`/v1/${state}/${name}`, { method: 'POST', body: { ...which, after } });
      done += answer.done;
      left.push(...answer.left);
      // What does not move on is not asked for ever.
      after = answer.done + answer.left.length > 0 ? (answer.next ?? undefined) : undefined;
      if (answer.interrupted && after === undefined) left.push({ why: answer.interrupted });
    } while (after !== undefined);
  }
  const reasons = [...new Set(left.map((event) => event.why))].slice(0, 3).join('; ');
  return left.length ? `${ACTS[name].done(done)} ${count(left.length)} not: ${reasons}.` : ACTS[name].done(done);
}
