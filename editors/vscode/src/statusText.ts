/** The server's state in a few words. Knows nothing of VS Code. */
import type { Outcome, Status } from './protocol';

export interface State {
  readonly status: Status | 'absent' | 'stopped';
  /** What is wrong, in one sentence with one thing to do. */
  readonly problem?: string;
  readonly paused: boolean;
  readonly outcome?: Outcome;
}

export interface Shown {
  readonly text: string;
  readonly detail: string;
  readonly busy: boolean;
  readonly severity: 'information' | 'warning' | 'error';
}

/** What the language status item shows. */
export function shown(state: State): Shown {
  const { status, problem } = state;
  if (problem !== undefined) {
    return { text: 'dgemma: not running', detail: problem, busy: false, severity: 'error' };
  }
  if (status === 'absent' || status === 'stopped') {
    return { text: 'dgemma: not running', detail: '', busy: false, severity: 'warning' };
  }
  if (status.state === 'failed' && status.engine !== undefined) {
    return { text: 'dgemma: no engine', detail: status.message, busy: false, severity: 'error' };
  }
  if (status.state === 'failed') {
    return { text: 'dgemma: no model', detail: status.message, busy: false, severity: 'error' };
  }
  if (status.state !== 'ready') {
    const share = status.percentage === undefined ? '' : ` ${Math.round(status.percentage)} %`;
    return { text: `dgemma: ${status.state}${share}`, detail: status.message, busy: true, severity: 'information' };
  }
  if (state.paused) {
    return { text: 'dgemma: paused', detail: status.message, busy: false, severity: 'warning' };
  }
  const { outcome } = state;
  const text = outcome?.reason === undefined ? 'dgemma: ready' : 'dgemma: quiet';
  const last = outcome?.ms === undefined ? [] : [`last fill ${Math.round(outcome.ms)} ms`];
  const why = outcome?.reason === undefined ? [] : [outcome.reason];
  const better = status.better === undefined ? [] : [`${status.better} would fill better`];
  const severity = status.better === undefined ? 'information' : 'warning';
  return { text, detail: [status.message, ...better, ...last, ...why].join(' · '), busy: false, severity };
}

/** Where text goes, and how the engine is; knows only what the server said. */
export function whereTextGoes(status: State['status']): string {
  if (typeof status === 'string') {
    return 'the server is not running';
  }
  if (status.text_goes_to === undefined) {
    return 'text goes nowhere: the model runs inside the server';
  }
  return `text goes to ${status.text_goes_to} (${status.why ?? 'named'}); ${status.message}`;
}
