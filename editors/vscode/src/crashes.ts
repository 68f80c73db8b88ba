/** How the extension goes on after the server's process has ended. Knows nothing of VS Code. */

/** How long after a crash it is started again: once, twice, ... in a row. */
export const BACKOFF_MS: readonly number[] = [1000, 2000, 4000, 8000, 16000];
/** A server that has lived for so long had no trouble starting. */
export const HEALTHY_MS = 60_000;

export class Crashes {
  private count = 0;

  /** The milliseconds to wait until the next start; undefined to give up, after which the count begins anew. */
  next(livedMs: number): number | undefined {
    this.count = livedMs > HEALTHY_MS ? 1 : this.count + 1;
    const delay = BACKOFF_MS[this.count - 1];
    if (delay === undefined) {
      this.count = 0;
    }
    return delay;
  }

  forget(): void {
    this.count = 0;
  }
}
