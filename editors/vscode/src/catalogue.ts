/** The checkpoints as `dgemma-lsp` tells programs of them. Knows nothing of VS Code. */

/** What is offered before there is a server to ask; a test holds it to the server's catalogue. */
export const DEFAULT = {
  name: 'qwen2.5-coder-0.5b',
  offer: '491 MB, 92 programming languages, 63 % of 150 tasks right, Apache-2.0',
  memoryBytes: 1_200_000_000,
  /** With the converted form; measured on x86-64. */
  diskBytes: 1_500_000_000,
};
/** The one inside the package. */
export const EMBEDDED = { name: 'embedded', offer: '27 MB, Python, 6 % of 150 tasks right, Apache-2.0' };

/** One checkpoint; those that are not in the catalogue have neither `about` nor `offer`. */
export interface Row {
  readonly name: string;
  readonly about?: string;
  readonly suits?: string;
  readonly offer?: string;
  /** What this machine lacks for it; null where nothing is known to be missing. */
  readonly shortage?: string | null;
  /** Null for the one inside the package. */
  readonly repository?: string | null;
  /** Where it is; null where it is not on this machine. */
  readonly path: string | null;
  readonly stored_bytes: number;
  readonly unfinished_bytes: number;
  /** Why what is on the disk cannot be used. */
  readonly problem: string | null;
}

/** What `dgemma-lsp checkpoints --json` prints. */
export interface Survey {
  readonly store: string;
  readonly recommended: { readonly name: string; readonly why: string };
  readonly used: { readonly name: string; readonly why: string };
  readonly converted_elsewhere_bytes: number;
  readonly checkpoints: readonly Row[];
}

/** A line of `dgemma-lsp pull --json`. */
export type PullEvent =
  | { readonly event: 'progress'; readonly doing: string; readonly share: number | null; readonly bytes: number }
  | { readonly event: 'said' | 'done' | 'failed' | 'interrupted'; readonly message: string };

/** What a pull printed; undefined for what is no event. */
export function readEvent(line: string): PullEvent | undefined {
  try {
    const read = JSON.parse(line) as PullEvent;
    return typeof read?.event === 'string' ? read : undefined;
  } catch {
    return undefined;
  }
}

export function isHere(row: Row): boolean {
  return row.path !== null || row.repository === null;
}

/** A row of the list to choose from. */
export function described(row: Row): { label: string; description: string; detail: string } {
  const { name, about, suits, offer, shortage, problem } = row;
  let description = 'not on this machine';
  if (row.repository === null) {
    description = 'inside the package';
  } else if (problem !== null) {
    description = 'damaged';
  } else if (row.path !== null) {
    description = `here, ${inWords(row.stored_bytes)}`;
  } else if (row.unfinished_bytes > 0) {
    description = `${inWords(row.unfinished_bytes)} have arrived`;
  } else if (shortage) {
    description = 'too large for this machine';
  }
  const detail = [offer, about, suits && `for ${suits}`, shortage, problem].filter(Boolean).join('; ');
  return { label: name, description, detail };
}

/** How far a pull is. */
export function progressText(event: PullEvent): string {
  if (event.event !== 'progress') {
    return event.message;
  }
  const { doing, share, bytes } = event;
  const arrived = doing === 'converting' ? '' : `, ${inWords(bytes)}`;
  return share === null ? `${doing}${arrived}` : `${doing}: ${Math.floor(100 * share)} %${arrived}`;
}

/** A number of bytes for people, in decimal units. */
export function inWords(bytes: number): string {
  let value = bytes;
  for (const unit of ['bytes', 'kB', 'MB']) {
    if (value < 1000) {
      return `${Math.round(value)} ${unit}`;
    }
    value /= 1000;
  }
  return `${value.toFixed(1)} GB`;
}
