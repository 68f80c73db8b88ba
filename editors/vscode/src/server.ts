/** The server's process and the client that talks to it: started, restarted in order, started again after crashes. */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { createInterface } from 'node:readline';
import * as vscode from 'vscode';
import { CloseAction, ErrorAction, RevealOutputChannelOn, type Middleware, type StaticFeature } from 'vscode-languageclient';
import { LanguageClient, type LanguageClientOptions, type StreamInfo } from 'vscode-languageclient/node';
import { Crashes } from './crashes';
import { locate, type Command } from './locate';
import { OUTCOME, STATUS, type Outcome, type Status } from './protocol';
import { setting, wantedLanguages } from './settings';

/** How long the first answer may take before the user hears of it. */
const PATIENCE_MS = 30_000;
/** How long a server may take to end by itself. */
const ENDING_MS = 2000;
/** How long one may take that has closed its pipes. */
const ENDED_MS = 500;
/** The longest wait until a killed process is gone. */
const KILLED_MS = 5000;

const LOG = 'dgemma: Open log';
const RESTART = 'dgemma: Restart server';
const CHECK = 'dgemma: Check server';
const INSTALL = 'dgemma: Install server';
const GET_STARTED = 'Get started';
const BUTTONS: Record<string, string> = {
  [LOG]: 'dgemma.log',
  [RESTART]: 'dgemma.restart',
  [CHECK]: 'dgemma.check',
  [INSTALL]: 'dgemma.installServer',
  [GET_STARTED]: 'dgemma.getStarted',
};

/** It shows nothing by itself: what users need to know is said here, once. */
class QuietClient extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

/** Tells the server what this client shows, and keeps its commands from being registered: they are always there. */
const ANNOUNCED: StaticFeature = {
  fillClientCapabilities: (capabilities) => {
    capabilities.experimental = { dgemma: { status: true } };
  },
  preInitialize: (capabilities) => {
    delete capabilities.executeCommandProvider;
  },
  initialize: () => undefined,
  getState: () => ({ kind: 'static' }),
  clear: () => undefined,
};

/** One start of the server. */
interface Run {
  readonly client: LanguageClient;
  process?: ChildProcessWithoutNullStreams;
  answered: boolean;
  /** We want it to end. */
  ending: boolean;
}

export class Server implements vscode.Disposable {
  private queue: Promise<void> = Promise.resolve();
  private run: Run | undefined;
  private timer: NodeJS.Timeout | undefined;
  private readonly crashes = new Crashes();
  private readonly changed = new vscode.EventEmitter<void>();
  readonly onDidChange = this.changed.event;

  /** What is wrong, in one sentence with one thing to do. */
  problem: string | undefined;
  status: Status | 'absent' | 'stopped' = 'absent';
  outcome: Outcome | undefined;
  /** Of the last start. */
  command: Command | undefined;

  constructor(
    private readonly log: vscode.LogOutputChannel,
    private readonly ownEnvironment: string,
    private readonly middleware: Middleware,
  ) {}

  /** The client, once the server has answered. */
  get client(): LanguageClient | undefined {
    return this.run?.answered ? this.run.client : undefined;
  }

  get processId(): number | undefined {
    return this.run?.process?.pid;
  }

  get isMissing(): boolean {
    return typeof this.find() === 'string';
  }

  /** The command that starts it, or what is wrong. */
  find(): Command | string {
    return locate({
      setting: setting<string>('server.path', ''),
      trustedFolders: vscode.workspace.isTrusted ? localFolders() : [],
      own: this.ownEnvironment,
      searchPath: process.env['PATH'] ?? '',
      windows: process.platform === 'win32',
      exists: existsSync,
    });
  }

  /** Start, unless it runs already. */
  start(): Promise<void> {
    return this.inOrder(() => (this.run === undefined ? this.begin() : Promise.resolve()));
  }

  /** End the server, and start it again. */
  restart(): Promise<void> {
    this.abandonStart();
    return this.inOrder(async () => {
      await this.end();
      this.crashes.forget();
      await this.begin();
    });
  }

  stop(): Promise<void> {
    this.abandonStart();
    return this.inOrder(() => this.end());
  }

  dispose(): Promise<void> {
    this.changed.dispose();
    return this.stop();
  }

  /** One after the other, whatever was asked for meanwhile. */
  private inOrder(step: () => Promise<void>): Promise<void> {
    this.queue = this.queue.then(step).catch((error: unknown) => this.log.error(String(error)));
    return this.queue;
  }

  /** Whoever waits for the first answer of a server that is not wanted any more need not wait. */
  private abandonStart(): void {
    clearTimeout(this.timer);
    if (this.run !== undefined && !this.run.answered) {
      this.run.ending = true;
      this.run.process?.kill('SIGKILL');
    }
  }

  private async begin(): Promise<void> {
    clearTimeout(this.timer);
    this.problem = undefined;
    this.outcome = undefined;
    const command = this.find();
    if (typeof command === 'string') {
      const named = setting<string>('server.path', '') !== '';
      this.become('absent');
      this.complain(command, ...(named ? [] : [INSTALL, GET_STARTED]));
      return;
    }
    this.command = command;
    this.log.info(`starting ${[command.command, ...command.args].join(' ')} (from ${command.source})`);
    this.become({ state: 'starting', message: '' });
    const run: Run = { client: this.newClient(() => this.spawn(run, command)), answered: false, ending: false };
    this.run = run;
    const patience = setTimeout(() => {
      this.complain(`the server has not answered for ${PATIENCE_MS / 1000} s; see its log, then restart it`, LOG, RESTART);
    }, PATIENCE_MS);
    const started = Date.now();
    try {
      await run.client.start();
      run.answered = true;
      this.problem = undefined;
      run.process?.once('exit', (code, signal) => this.ended(run, code, signal, Date.now() - started));
      if (run.process !== undefined && hasEnded(run.process)) {
        this.ended(run, run.process.exitCode, run.process.signalCode, Date.now() - started);
      }
      this.changed.fire();
    } catch (error) {
      await this.failedToStart(run, error);
    } finally {
      clearTimeout(patience);
    }
  }

  private newClient(spawned: () => Promise<StreamInfo>): LanguageClient {
    const documentSelector = wantedLanguages().flatMap((language) => [
      { scheme: 'file', language },
      { scheme: 'untitled', language },
      { notebook: '*', language },
    ]);
    const options: LanguageClientOptions = {
      documentSelector,
      outputChannel: this.log,
      revealOutputChannelOn: RevealOutputChannelOn.Never,
      initializationOptions: () => vscode.workspace.getConfiguration('dgemma'),
      synchronize: { configurationSection: 'dgemma' },
      initializationFailedHandler: () => false,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue, handled: true }),
        closed: () => ({ action: CloseAction.DoNotRestart, handled: true }),
      },
      middleware: this.middleware,
    };
    const client = new QuietClient('dgemma', 'dgemma', spawned, options);
    client.registerFeature(ANNOUNCED);
    client.onNotification(STATUS, (status: Status) => this.become(status));
    client.onNotification(OUTCOME, (outcome: Outcome) => {
      this.outcome = { ...this.outcome, reason: undefined, ...outcome }; // what is typed along has no time of its own
      this.changed.fire();
    });
    return client;
  }

  /** Not in the folder of the project: nothing in it shall be run. */
  private spawn(run: Run, { command, args }: Command): Promise<StreamInfo> {
    const process = spawn(command, args, { cwd: homedir(), stdio: 'pipe', windowsHide: true });
    run.process = process;
    createInterface({ input: process.stderr }).on('line', (line) => this.note(line));
    process.stdin.on('error', () => undefined); // the client notices that the connection ended
    return new Promise((resolve, reject) => {
      process.once('error', reject);
      process.once('spawn', () => resolve({ reader: process.stdout, writer: process.stdin, detached: true }));
    });
  }

  /** A line of the server's log, at its own level. */
  private note(line: string): void {
    const [, level, text] = /^[\d-]+ [\d:,]+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)$/.exec(line) ?? [];
    const message = text ?? line;
    switch (level) {
      case 'DEBUG':
        return this.log.debug(message);
      case 'WARNING':
        return this.log.warn(message);
      case 'ERROR':
      case 'CRITICAL':
        return this.log.error(message);
      default:
        return this.log.info(message);
    }
  }

  private async failedToStart(run: Run, error: unknown): Promise<void> {
    this.log.error(`the server did not start: ${String(error)}`);
    await gone(run.process, ENDED_MS); // its pipes end before it does
    this.run = undefined;
    this.become('stopped');
    if (!run.ending) {
      const { exitCode = null, signalCode = null } = run.process ?? {};
      const how = exitCode ?? signalCode ?? (error instanceof Error ? error.message : String(error));
      this.complain(`the server does not start (${exitCode === null ? how : `exit code ${how}`}); check it`, CHECK, LOG);
    }
  }

  private ended(run: Run, code: number | null, signal: string | null, livedMs: number): void {
    if (run.ending || this.run !== run) {
      return;
    }
    this.run = undefined;
    this.become('stopped');
    const how = signal === null ? `exit code ${code}` : `signal ${signal}`;
    const delay = this.crashes.next(livedMs);
    if (delay === undefined) {
      this.complain(`the server keeps ending (${how}); see its log, then restart it`, LOG, RESTART);
      return;
    }
    const message = `the server has ended (${how}); it is started again in ${delay / 1000} s`;
    this.log.warn(message);
    void vscode.window.setStatusBarMessage(`dgemma: ${message}`, delay + 4000);
    this.timer = setTimeout(() => void this.start(), delay);
  }

  private async end(): Promise<void> {
    clearTimeout(this.timer);
    const run = this.run;
    if (run === undefined) {
      return;
    }
    run.ending = true;
    this.run = undefined;
    try {
      await run.client.stop(ENDING_MS);
    } catch {
      // it is killed below
    }
    await gone(run.process, ENDING_MS);
    this.become('stopped');
  }

  private become(status: Status | 'absent' | 'stopped'): void {
    this.status = status;
    this.changed.fire();
  }

  private complain(message: string, ...buttons: string[]): void {
    if (this.problem !== undefined) {
      return; // the first one is the cause of the others
    }
    this.problem = message;
    this.log.error(message);
    this.changed.fire();
    void vscode.window.showErrorMessage(`dgemma: ${message}`, ...buttons).then((chosen) => {
      const command = chosen && BUTTONS[chosen];
      return command && vscode.commands.executeCommand(command);
    });
  }
}

function localFolders(): string[] {
  return (vscode.workspace.workspaceFolders ?? []).filter(({ uri }) => uri.scheme === 'file').map(({ uri }) => uri.fsPath);
}

function hasEnded(process: ChildProcessWithoutNullStreams): boolean {
  return process.exitCode !== null || process.signalCode !== null;
}

/** Return when a process has ended, by itself or because it is killed. */
async function gone(process: ChildProcessWithoutNullStreams | undefined, patienceMs: number): Promise<void> {
  if (process?.pid === undefined || hasEnded(process)) {
    return;
  }
  await new Promise<void>((resolve) => {
    const timers = [setTimeout(() => process.kill('SIGKILL'), patienceMs), setTimeout(resolve, patienceMs + KILLED_MS)];
    process.once('exit', () => {
      timers.forEach(clearTimeout);
      resolve();
    });
  });
}
