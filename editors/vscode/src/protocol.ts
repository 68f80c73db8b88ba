/** What the server says beyond LSP; the other side is dgemma_lsp/server/protocol.py. */

/** The notification `dgemma/status`. */
export interface Status {
  readonly state: 'starting' | 'loading' | 'ready' | 'failed';
  /** Ready: checkpoint and device. Failed: why. */
  readonly message: string;
  readonly percentage?: number;
  /** The name of the checkpoint, and why it is this one. */
  readonly checkpoint?: string;
  readonly why?: string;
  /** The name of one that fills better on this machine and is not there, and what it brings. */
  readonly better?: string;
  readonly offer?: string;
}

/** The notification `dgemma/outcome`: what came of the last request for a suggestion. */
export interface Outcome {
  readonly uri: string;
  /** What the fill took; absent where nothing was computed. */
  readonly ms?: number;
  /** Why nothing is shown; absent where something is. */
  readonly reason?: string | undefined;
}

export type TokenState = 'accepted' | 'revised' | 'renoised' | 'noise';

/** One position of the canvas. */
export interface CanvasToken {
  readonly text: string;
  /** The probability of the token shown, 0 to 1. */
  readonly confidence: number;
  readonly state: TokenState;
}

/** The notification `dgemma/canvas`: the canvas after one step of the fill that `dgemma/watch` asked for. */
export interface Canvas {
  /** The caller's number for the fill. */
  readonly watch: number;
  readonly step: number;
  /** What this step took. */
  readonly ms: number;
  readonly done: boolean;
  readonly tokens: readonly CanvasToken[];
}

/** The answer to `dgemma/watch`. */
export interface Watched {
  /** What the fill would insert; absent where nothing came of it. */
  readonly text?: string;
  /** Why nothing came of it. */
  readonly reason?: string;
}

export const STATUS = 'dgemma/status';
export const OUTCOME = 'dgemma/outcome';
export const WATCH = 'dgemma/watch';
export const CANVAS = 'dgemma/canvas';
