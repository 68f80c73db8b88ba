/** Starts the server for the languages that it knows, and offers what it can do. */
import { join } from 'node:path';
import * as vscode from 'vscode';
import { registerCommands } from './commands';
import { EDITS } from './edits';
import { checkServer, Installer } from './install';
import { Server } from './server';
import { isWanted, setting } from './settings';
import { StatusItem } from './status';
import { registerWatch } from './watch';

/** What a running server cannot take over. */
const NEED_RESTART = ['dgemma.server', 'dgemma.checkpoint', 'dgemma.device', 'dgemma.languages', 'dgemma.disabled_languages'];
const WALKTHROUGH = 'dgemma.dgemma#start';

/** For tests: what happens inside. */
export interface Api {
  readonly server: Server;
  readonly status: StatusItem;
}

let server: Server | undefined;

export function activate(context: vscode.ExtensionContext): Api {
  const log = vscode.window.createOutputChannel('dgemma', { log: true });
  const environment = join(context.globalStorageUri.fsPath, 'server');
  let status: StatusItem | undefined = undefined;
  const isPaused = (): boolean => status?.paused ?? false;
  server = new Server(log, environment, {
    ...EDITS,
    provideInlineCompletionItems: (document, position, inline, token, next) =>
      isPaused() ? [] : next(document, position, inline, token),
  });
  status = new StatusItem(server);
  const running = { server, status };
  const installer = new Installer(context.extensionPath, environment, log);
  const command = (name: string, run: () => unknown) => vscode.commands.registerCommand(`dgemma.${name}`, run);
  context.subscriptions.push(
    log,
    server,
    status,
    ...registerCommands(server, status),
    registerWatch(context.extensionUri, server, status),
    command('installServer', async () => {
      if ((await installer.install(() => running.server.stop())) || running.server.status === 'stopped') {
        await running.server.restart();
      }
    }),
    command('check', () => checkServer(running.server.command, log)),
    command('restart', () => running.server.restart()),
    command('pause', () => running.status.pause(true)),
    command('resume', () => running.status.pause(false)),
    command('log', () => log.show(true)),
    command('menu', () => running.status.menu()),
    command('settings', () => vscode.commands.executeCommand('workbench.action.openSettings', '@ext:dgemma.dgemma')),
    command('chooseCheckpoint', chooseCheckpoint),
    command('getStarted', () => vscode.commands.executeCommand('workbench.action.openWalkthrough', WALKTHROUGH, false)),
    vscode.workspace.onDidOpenTextDocument(startWhereWanted),
    vscode.workspace.onDidGrantWorkspaceTrust(() => isWantedSomewhere() && running.server.restart()),
    vscode.window.onDidChangeActiveTextEditor(() => running.status.show()),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (NEED_RESTART.some((name) => event.affectsConfiguration(name)) && isWantedSomewhere()) {
        void running.server.restart();
      }
    }),
  );
  startWhereWanted();
  void installer.offerUpdate(running.server);
  return running;
}

export async function deactivate(): Promise<void> {
  await server?.stop();
}

function isWantedSomewhere(): boolean {
  return vscode.workspace.textDocuments.some(isWanted);
}

/** What went wrong once is not tried again with every file, but a server that has been installed meanwhile is found. */
function startWhereWanted(): void {
  const mayStart = server?.problem === undefined || (server.status === 'absent' && !server.isMissing);
  if (mayStart && isWantedSomewhere()) {
    void server?.start();
  }
}

async function chooseCheckpoint(): Promise<void> {
  const [embedded, folder, name] = ['The embedded one', 'A folder...', 'A name on the Hugging Face hub...'];
  const placeHolder = `now: ${setting('checkpoint', '') || 'the embedded one'}`;
  const chosen = await vscode.window.showQuickPick([embedded, folder, name], { title: 'dgemma: checkpoint', placeHolder });
  let checkpoint: string | null | undefined;
  if (chosen === embedded) {
    checkpoint = null;
  } else if (chosen === folder) {
    const picked = await vscode.window.showOpenDialog({ canSelectFolders: true, canSelectFiles: false });
    checkpoint = picked?.[0]?.fsPath;
  } else if (chosen === name) {
    checkpoint = await vscode.window.showInputBox({
      title: 'dgemma: checkpoint',
      prompt: 'Get it first, in a terminal: dgemma-lsp pull owner/model',
      placeHolder: 'google/diffusiongemma-26B-A4B-it',
    });
  }
  if (checkpoint !== undefined && checkpoint !== '') {
    await vscode.workspace.getConfiguration('dgemma').update('checkpoint', checkpoint, vscode.ConfigurationTarget.Global);
  }
}
