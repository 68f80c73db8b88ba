/** Starts the server for the languages that it knows, and offers what it can do. */
import { join } from 'node:path';
import * as vscode from 'vscode';
import { DEFAULT } from './catalogue';
import { Checkpoints } from './checkpoints';
import { registerCommands } from './commands';
import { EDITS, tell } from './edits';
import { checkServer, Installer } from './install';
import { showPage } from './pages';
import { Server } from './server';
import { isWanted, modelOptions } from './settings';
import { StatusItem } from './status';
import { whereTextGoes } from './statusText';
import { registerWatch } from './watch';

/** What a running server cannot take over. */
const NEED_RESTART = ['dgemma.server', 'dgemma.engine', 'dgemma.engine_token_file', 'dgemma.checkpoint', 'dgemma.device', 'dgemma.quantize', 'dgemma.languages', 'dgemma.disabled_languages'];
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
  const checkpoints = new Checkpoints(server, environment, log);
  const command = (name: string, run: (argument?: string) => unknown) => vscode.commands.registerCommand(`dgemma.${name}`, run);
  const install = async (): Promise<void> => {
    const installed = await installer.install(() => running.server.stop());
    if (installed !== undefined || running.server.status === 'stopped') {
      await running.server.restart();
    }
    if (installed === 'server and checkpoint') {
      await vscode.commands.executeCommand('dgemma.getCheckpoint');
    }
  };
  context.subscriptions.push(
    log,
    server,
    status,
    ...registerCommands(server, status),
    registerWatch(context.extensionUri, server, status),
    command('installServer', install),
    command('getCheckpoint', async (name?: string) => {
      if (await checkpoints.get(name ?? DEFAULT.name)) {
        await running.server.restart();
      }
    }),
    command('chooseCheckpoint', () => checkpoints.choose()),
    command('remove', () => checkpoints.remove()),
    command('check', () => checkServer(running.server.command, modelOptions(), log)),
    command('restart', () => running.server.restart()),
    command('pause', () => running.status.pause(true)),
    command('resume', () => running.status.pause(false)),
    command('log', () => log.show(true)),
    command('menu', () => running.status.menu()),
    command('engine', () => tell(whereTextGoes(running.server.status))),
    command('settings', () => vscode.commands.executeCommand('workbench.action.openSettings', '@ext:dgemma.dgemma')),
    command('docs', (page?: string) => showPage(context.extensionUri, page)),
    command('getStarted', () => vscode.commands.executeCommand('workbench.action.openWalkthrough', WALKTHROUGH, false)),
    server.onDidChange(() => void checkpoints.tellOfBetter(context.globalState)),
    vscode.workspace.onDidOpenTextDocument(startWhereWanted), // and when its language is changed
    vscode.window.onDidChangeVisibleTextEditors(startWhereWanted),
    vscode.window.onDidChangeVisibleNotebookEditors(startWhereWanted),
    vscode.workspace.onDidGrantWorkspaceTrust(() => isInUse() && running.server.restart()),
    vscode.window.onDidChangeActiveTextEditor(() => running.status.show()),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (NEED_RESTART.some((name) => event.affectsConfiguration(name)) && isInUse()) {
        void running.server.restart();
      }
    }),
  );
  startWhereWanted();
  void installer.offerUpdate(install);
  return running;
}

export async function deactivate(): Promise<void> {
  await server?.stop();
}

/** Whether the user looks at something that the server is for; VS Code itself opens documents in the background, too. */
function isWantedSomewhere(): boolean {
  const cells = vscode.window.visibleNotebookEditors.flatMap(({ notebook }) => notebook.getCells());
  return [...vscode.window.visibleTextEditors, ...cells].some(({ document }) => isWanted(document));
}

function isInUse(): boolean {
  return server?.processId !== undefined || isWantedSomewhere();
}

/** What went wrong once is not tried again with every file, but a server that has been installed meanwhile is found. */
function startWhereWanted(): void {
  const mayStart = server?.problem === undefined || (server.status === 'absent' && !server.isMissing);
  if (mayStart && isWantedSomewhere()) {
    void server?.start();
  }
}
