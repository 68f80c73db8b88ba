/** What the server sends beyond LSP. Its side is in dgemma_lsp/server: from_client.py has the names, to_client.py the values. */

/** The notification `dgemma/status`. */
export interface Status {
  readonly state: 'starting' | 'loading' | 'ready' | 'failed';
  /** Ready: checkpoint and device. Failed: why. */
  readonly message: string;
  readonly percentage?: number;
  /** The name of the checkpoint, and why it is this one. */
  readonly checkpoint?: string;
  readonly why?: string;
  /** Where an engine fills in place of a checkpoint: its address, and in words where text goes. */
  readonly engine?: string;
  readonly text_goes_to?: string;
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

/** The first four are of a fill that is written from left to right, the others of a canvas. */
export type TokenState = 'drafted' | 'written' | 'refused' | 'chosen' | 'accepted' | 'revised' | 'renoised' | 'noise';

/** A token that was written or refused, or one position of a canvas. */
export interface CanvasToken {
  readonly text: string;
  /** The probability of the token shown, 0 to 1. */
  readonly confidence: number;
  readonly state: TokenState;
}

/** What one pass of the writer checked. */
export interface Check {
  /** Who drafted; absent where nobody did. */
  readonly by?: string | null;
  /** How many tokens were proposed, how many of them the writer would write, and how many it wrote in all. */
  readonly drafted: number;
  readonly accepted: number;
  readonly written: number;
}

/** The notification `dgemma/canvas`: the fill that `dgemma/watch` asked for, after one pass. Also of fills without a canvas. */
export interface Canvas {
  /** The caller's number for the fill. */
  readonly watch: number;
  readonly step: number;
  /** Milliseconds since the notification before, or since the fill began. */
  readonly ms: number;
  readonly done: boolean;
  readonly tokens: readonly CanvasToken[];
  /** Absent if the fill is denoised, or if the notification before has the check of the same pass. */
  readonly check?: Check;
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
