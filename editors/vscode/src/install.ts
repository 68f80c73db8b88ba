/** An environment of the extension's own, made from the wheel that travels with it. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import * as vscode from 'vscode';
import { pythonIn, type Command } from './locate';
import * as python from './python';
import type { Server } from './server';

const GB = 1e9;
/** What a Python may take to say what it is. */
const ASKING_MS = 20_000;
const WINDOWS = process.platform === 'win32';

/** Something that the user can put right; the message says how. */
class UserError extends Error {}

export class Installer {
  private busy = false;

  constructor(
    private readonly extension: string,
    private readonly environment: string,
    private readonly log: vscode.LogOutputChannel,
  ) {}

  /** Ask, then install; whether there is a new server. `before` is awaited before anything is replaced. */
  async install(before: () => Promise<void>): Promise<boolean> {
    if (this.busy) {
      void vscode.window.showInformationMessage('dgemma: the server is being installed already');
      return false;
    }
    this.busy = true;
    try {
      const wheel = await this.wheel();
      const interpreter = await this.findPython();
      const build = python.torchBuild(process.platform, await this.runs('nvidia-smi', ['-L']));
      const { download, disk } = python.sizes(build);
      await this.checkSpace(disk);
      const what = `It makes an environment of its own with the ${build === 'cpu' ? 'CPU' : 'CUDA'} build of torch: about ` +
        `${download} GB to download, ${disk} GB in ${this.environment}. Nothing else on this machine is changed.`;
      const chosen = await vscode.window.showInformationMessage('Install the server of dgemma?', { modal: true, detail: what }, 'Install');
      if (chosen !== 'Install') {
        return false;
      }
      await before();
      const shown = { location: vscode.ProgressLocation.Notification, title: 'dgemma: installing the server', cancellable: true };
      await vscode.window.withProgress(shown, (progress, token) => this.make(interpreter, wheel, build, progress, token));
      void vscode.window.showInformationMessage('dgemma: the server is installed; open a Python file and type');
      return true;
    } catch (error) {
      if (!(error instanceof vscode.CancellationError)) {
        this.log.error(`installing failed: ${error instanceof Error ? error.message : String(error)}`);
        const message = error instanceof UserError ? error.message : `installing failed (${String(error)}); see the log`;
        const chosen = await vscode.window.showErrorMessage(`dgemma: ${message}`, 'dgemma: Open log');
        if (chosen !== undefined) {
          this.log.show(true);
        }
      }
      return false;
    } finally {
      this.busy = false;
    }
  }

  /** Where the extension has become newer than the server that it installed, offer to install that again. */
  async offerUpdate(server: Server): Promise<void> {
    const installed = await readFile(join(this.environment, 'wheel.json'), 'utf8').catch(() => undefined);
    const brought = await readFile(join(this.extension, 'server', 'wheel.json'), 'utf8').catch(() => undefined);
    if (installed === undefined || brought === undefined || installed === brought) {
      return;
    }
    const update = 'Update';
    const chosen = await vscode.window.showInformationMessage('dgemma: this extension brings a newer server', update);
    if (chosen === update && (await this.install(() => server.stop()))) {
      await server.restart();
    }
  }

  private async wheel(): Promise<python.Wheel> {
    try {
      return JSON.parse(await readFile(join(this.extension, 'server', 'wheel.json'), 'utf8')) as python.Wheel;
    } catch {
      throw new UserError('this extension was packaged without a server; set dgemma.server.path to one that you have installed');
    }
  }

  /** The first Python that can make the environment, as a command. */
  private async findPython(): Promise<readonly string[]> {
    let best = 'Python 3.11 or later was not found; install it from python.org or your system, then run this again';
    for (const [name = '', ...args] of python.pythonNames(WINDOWS)) {
      const found = python.readPython(await this.output(name, [...args, '-I', '-c', python.ASK_PYTHON]).catch(() => ''));
      if (found === undefined) {
        continue;
      }
      const version = found.version.join('.');
      if (!python.isNewEnough(found.version)) {
        best = `${name} is Python ${version}, and 3.11 or later is needed; install that, then run this again`;
      } else if (!found.makesEnvironments) {
        best = `${name} cannot make environments; install python${version}-venv, then run this again`;
      } else {
        return [name, ...args];
      }
    }
    throw new UserError(best);
  }

  private async checkSpace(wantedGb: number): Promise<void> {
    const folder = dirname(this.environment);
    await mkdir(folder, { recursive: true });
    const { bavail, bsize } = await statfs(folder);
    if (bavail * bsize < wantedGb * GB) {
      const free = ((bavail * bsize) / GB).toFixed(1);
      throw new UserError(`there are ${free} GB free in ${folder} and ${wantedGb} are needed; free some, then run this again`);
    }
  }

  private async make(
    [interpreter = '', ...args]: readonly string[],
    wheel: python.Wheel,
    build: python.TorchBuild,
    progress: vscode.Progress<{ message: string }>,
    token: vscode.CancellationToken,
  ): Promise<void> {
    const own = pythonIn(this.environment, WINDOWS);
    const run = (command: string, rest: readonly string[]): Promise<void> =>
      this.logged(command, rest, token, (line) => {
        const message = python.pipProgress(line);
        if (message !== undefined) {
          progress.report({ message });
        }
      });
    progress.report({ message: 'making the environment' });
    await rm(this.environment, { recursive: true, force: true });
    try {
      await run(interpreter, [...args, '-I', '-m', 'venv', this.environment]);
      const path = join(this.extension, 'server', wheel.file);
      for (const pipRun of python.pipRuns(path, wheel, build, process.platform)) {
        await run(own, pipRun);
      }
      progress.report({ message: 'checking it' });
      await run(own, ['-I', '-m', 'dgemma_lsp', 'check']);
      const json = await readFile(join(this.extension, 'server', 'wheel.json'), 'utf8');
      await writeFile(join(this.environment, 'wheel.json'), json);
    } catch (error) {
      await rm(this.environment, { recursive: true, force: true });
      throw error;
    }
  }

  /** Run a command, its output in the log; a failure says what it was. */
  private logged(command: string, args: readonly string[], token: vscode.CancellationToken, see: (line: string) => void): Promise<void> {
    this.log.info(`> ${[command, ...args].join(' ')}`);
    return new Promise((resolve, reject) => {
      const child = spawn(command, args, { cwd: homedir(), stdio: ['ignore', 'pipe', 'pipe'], windowsHide: true });
      let last = '';
      for (const stream of [child.stdout, child.stderr]) {
        createInterface({ input: stream }).on('line', (line) => {
          this.log.info(line);
          last = /ERROR|rror:/.test(line) || last === '' ? line : last;
          see(line);
        });
      }
      const cancelled = token.onCancellationRequested(() => child.kill());
      child.once('error', reject);
      child.once('close', (code) => {
        cancelled.dispose();
        if (token.isCancellationRequested) {
          reject(new vscode.CancellationError());
        } else if (code === 0) {
          resolve();
        } else {
          reject(new UserError(`installing failed: ${last.trim() || `exit code ${code}`}; see the log, then run this again`));
        }
      });
    });
  }

  private output(command: string, args: readonly string[]): Promise<string> {
    return new Promise((resolve, reject) => {
      const child = spawn(command, args, { cwd: homedir(), stdio: ['ignore', 'pipe', 'ignore'], windowsHide: true, timeout: ASKING_MS });
      let printed = '';
      child.stdout.on('data', (data: Buffer) => (printed += data.toString()));
      child.once('error', reject);
      child.once('close', () => resolve(printed));
    });
  }

  private async runs(command: string, args: readonly string[]): Promise<boolean> {
    return (await this.output(command, args).catch(() => '')).includes('GPU');
  }
}

/** Run the server's own check in a terminal, where the user sees what it says. */
export function checkServer(command: Command | undefined, log: vscode.LogOutputChannel): void {
  if (command === undefined || !existsSync(command.command)) {
    log.show(true);
    return;
  }
  const terminal = vscode.window.createTerminal({
    name: 'dgemma check',
    cwd: homedir(),
    shellPath: command.command,
    shellArgs: [...command.args, 'check'],
  });
  terminal.show();
}
