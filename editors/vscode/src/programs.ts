/** Programs that are run to their end, in the home folder. */
import { spawn } from 'node:child_process';
import { homedir } from 'node:os';
import { createInterface } from 'node:readline';
import * as vscode from 'vscode';

/** Something that the user can put right; the message says how. */
export class UserError extends Error {}

/** What a program prints, whatever its exit code; rejects where it cannot be run. */
export function output(command: string, args: readonly string[], timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: homedir(), stdio: ['ignore', 'pipe', 'ignore'], windowsHide: true, timeout: timeoutMs });
    let printed = '';
    child.stdout.on('data', (data: Buffer) => (printed += data.toString()));
    child.once('error', reject);
    child.once('close', () => resolve(printed));
  });
}

/** Run a program, and see each line that it prints; its exit code. Whoever cancels ends it. */
export function follow(
  command: string,
  args: readonly string[],
  token: vscode.CancellationToken,
  see: (line: string, from: 'stdout' | 'stderr') => void,
): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: homedir(), stdio: ['ignore', 'pipe', 'pipe'], windowsHide: true });
    for (const from of ['stdout', 'stderr'] as const) {
      createInterface({ input: child[from] }).on('line', (line) => see(line, from));
    }
    const cancelled = token.onCancellationRequested(() => child.kill());
    child.once('error', reject);
    child.once('close', (code) => {
      cancelled.dispose();
      if (token.isCancellationRequested) {
        reject(new vscode.CancellationError());
      } else {
        resolve(code);
      }
    });
  });
}
