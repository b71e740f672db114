// The question before an act: what, how many, and a way back; then the act, with the dialog open until it is done.

import { at, say } from './dom.js';

/** Asks; on yes runs `act` and returns what it returned, on no returns null. A problem is shown and can be retried. */
export function confirmed({ title, text, yes, harmful = false }, act) {
  const dialog = at('confirm');
  const [no, go, problem] = [at('confirm-no'), at('confirm-yes'), at('confirm-problem')];
  at('confirm-title').textContent = title;
  at('confirm-text').textContent = text;
  go.textContent = yes;
  go.className = harmful ? 'main bad' : 'main';
  go.disabled = no.disabled = false;
  problem.textContent = '';
  return new Promise((resolve) => {
    let result = null;
    go.onclick = async (event) => {
      event.preventDefault();
      go.disabled = no.disabled = true;
      problem.textContent = '';
      try {
        result = await act();
        dialog.close('yes');
      } catch (error) {
        problem.textContent = error.message;
        go.disabled = no.disabled = false;
      }
    };
    // What has begun is waited for, so that whoever asked sees what came of it.
    dialog.oncancel = (event) => go.disabled && event.preventDefault();
    dialog.onclose = () => resolve(result);
    say('');
    dialog.showModal();
    // The harmless answer has the focus.
    no.focus();
  });
}
