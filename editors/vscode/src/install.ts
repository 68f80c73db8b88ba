/** An environment of the extension's own, made from the wheel that travels with it. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { freemem, homedir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import * as vscode from 'vscode';
import { DEFAULT, EMBEDDED, inWords } from './catalogue';
import { pythonIn, type Command } from './locate';
import { follow, output, UserError } from './programs';
import * as python from './python';

const GB = 1e9;
/** What a Python may take to say what it is. */
const ASKING_MS = 20_000;
const WINDOWS = process.platform === 'win32';

/** What the user wants installed. */
export type Installed = 'server' | 'server and checkpoint';

export class Installer {
  private busy = false;

  constructor(
    private readonly extension: string,
    private readonly environment: string,
    private readonly log: vscode.LogOutputChannel,
  ) {}

  /** Ask, then install; what the user chose, if there is a new server. `before` is awaited before anything is replaced. */
  async install(before: () => Promise<void>): Promise<Installed | undefined> {
    if (this.busy) {
      void vscode.window.showInformationMessage('dgemma: the server is being installed already');
      return undefined;
    }
    this.busy = true;
    let locked = false;
    try {
      const wheel = await this.wheel();
      const interpreter = await this.findPython();
      const build = python.torchBuild(process.platform, await this.runs('nvidia-smi', ['-L']));
      const { download, disk } = python.sizes(build);
      await this.checkSpace(disk);
      const { text, wanted } = this.checkpointOffer();
      const what = `It makes an environment of its own with the ${build === 'cpu' ? 'CPU' : 'CUDA'} build of torch: about ` +
        `${download} GB to download, ${disk} GB in ${this.environment}. Nothing else on this machine is changed.\n\n${text}`;
      const buttons = Object.keys(wanted);
      const chosen = await vscode.window.showInformationMessage('Install the server of dgemma?', { modal: true, detail: what }, ...buttons);
      if (chosen === undefined) {
        return undefined;
      }
      await this.lock();
      locked = true;
      await before();
      const shown = { location: vscode.ProgressLocation.Notification, title: 'dgemma: installing the server', cancellable: true };
      await vscode.window.withProgress(shown, (progress, token) => this.make(interpreter, wheel, build, progress, token));
      void vscode.window.showInformationMessage('dgemma: the server is installed; open a file of code and type');
      return wanted[chosen];
    } catch (error) {
      if (!(error instanceof vscode.CancellationError)) {
        this.log.error(`installing failed: ${error instanceof Error ? error.message : String(error)}`);
        const message = error instanceof UserError ? error.message : `installing failed (${String(error)}); see the log`;
        const chosen = await vscode.window.showErrorMessage(`dgemma: ${message}`, 'dgemma: Open log');
        if (chosen !== undefined) {
          this.log.show(true);
        }
      }
      return undefined;
    } finally {
      this.busy = false;
      if (locked) {
        await rm(this.lockFile, { force: true });
      }
    }
  }

  /** The checkpoint that is offered with the server, and the buttons; first the one that suits this machine. */
  private checkpointOffer(): { text: string; wanted: Record<string, Installed> } {
    const [withIt, alone] = [`Install with ${DEFAULT.name}`, 'Install the server only'];
    const free = process.platform === 'linux' ? freemem() : totalmem(); // on other systems memory of caches does not count as free
    const isSmall = free < DEFAULT.memoryBytes;
    const lack = ` It needs ${inWords(DEFAULT.memoryBytes)} of memory, and ${inWords(free)} are free on this machine.`;
    const text = `The checkpoint ${DEFAULT.name} comes on top (${DEFAULT.offer}; ${inWords(DEFAULT.diskBytes)} on the disk once it is converted); it arrives while the one inside the package, which ` +
      `is far weaker, works already (${EMBEDDED.offer}).${isSmall ? lack : ''}`;
    const both: [string, Installed][] = [[withIt, 'server and checkpoint'], [alone, 'server']];
    return { text, wanted: Object.fromEntries(isSmall ? both.reverse() : both) };
  }

  private get lockFile(): string {
    return `${this.environment}.installing`;
  }

  /** Keep other windows from installing into the same folder. What a window that has ended left behind does not. */
  private async lock(): Promise<void> {
    const holder = Number(await readFile(this.lockFile, 'utf8').catch(() => ''));
    if (holder !== process.pid && isRunning(holder)) {
      throw new UserError('another window is installing the server; wait for it');
    }
    await rm(this.lockFile, { force: true });
    await writeFile(this.lockFile, String(process.pid), { flag: 'wx' }).catch(() => {
      throw new UserError('another window is installing the server; wait for it');
    });
  }

  /** Where the extension has become newer than the server that it installed, offer to `install` that again. */
  async offerUpdate(install: () => Promise<void>): Promise<void> {
    const installed = await readFile(join(this.environment, 'wheel.json'), 'utf8').catch(() => undefined);
    const brought = await readFile(join(this.extension, 'server', 'wheel.json'), 'utf8').catch(() => undefined);
    if (installed === undefined || brought === undefined || installed === brought) {
      return;
    }
    const update = 'Update';
    const chosen = await vscode.window.showInformationMessage('dgemma: this extension brings a newer server', update);
    if (chosen === update) {
      await install();
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
      const found = python.readPython(await output(name, [...args, '-I', '-c', python.ASK_PYTHON], ASKING_MS).catch(() => ''));
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
  private async logged(command: string, args: readonly string[], token: vscode.CancellationToken, see: (line: string) => void): Promise<void> {
    this.log.info(`> ${[command, ...args].join(' ')}`);
    let last = '';
    const code = await follow(command, args, token, (line) => {
      this.log.info(line);
      last = /ERROR|rror:/.test(line) || last === '' ? line : last;
      see(line);
    });
    if (code !== 0) {
      throw new UserError(`installing failed: ${last.trim() || `exit code ${code}`}; see the log, then run this again`);
    }
  }

  private async runs(command: string, args: readonly string[]): Promise<boolean> {
    return (await output(command, args, ASKING_MS).catch(() => '')).includes('GPU');
  }
}

function isRunning(processId: number): boolean {
  try {
    return processId > 0 && process.kill(processId, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'; // somebody else's
  }
}

/** Run the server's own check in a terminal, where the user sees what it says. */
export function checkServer(command: Command | undefined, options: readonly string[], log: vscode.LogOutputChannel): void {
  if (command === undefined || !existsSync(command.command)) {
    log.show(true);
    return;
  }
  const terminal = vscode.window.createTerminal({
    name: 'dgemma check',
    cwd: homedir(),
    shellPath: command.command,
    shellArgs: [...command.args, 'check', ...options],
  });
  terminal.show();
}
