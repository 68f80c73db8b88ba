/** What the server can do at a place, and the questions that it answers. */
import * as vscode from 'vscode';
import { ExecuteCommandRequest, ResponseError } from 'vscode-languageclient';
import type { LanguageClient } from 'vscode-languageclient/node';
import { tell } from './edits';
import type { Server } from './server';
import type { StatusItem } from './status';
import { isWanted } from './settings';
import { shown } from './statusText';

/** The server's commands that change code; each takes a place. */
export const ACTIONS: readonly string[] = [
  ...['fillHole', 'fillAllHoles', 'rewriteSelection', 'repair', 'addDocstring', 'addTypeAnnotations'],
  ...['addMissingArguments', 'wrapInTryExcept', 'proofread'],
];

/** What a command that changed code answers. */
interface Applied {
  readonly applied: boolean;
  readonly failureReason?: string | null;
}

interface Silence {
  readonly name: string;
  readonly reason: string;
  readonly rule?: string;
}

/** Register the commands that ask the server something. */
export function registerCommands(server: Server, status: StatusItem): vscode.Disposable[] {
  const action = (name: string) =>
    vscode.commands.registerCommand(`dgemma.${name}`, (place?: unknown) => perform(server, status, `dgemma.${name}`, place));
  return [
    ...ACTIONS.map(action),
    vscode.commands.registerCommand('dgemma.why', () => explainSilence(server, status)),
    // Run by VS Code when a suggestion is accepted.
    vscode.commands.registerCommand('dgemma.didAccept', (...values: unknown[]) =>
      server.client && execute(server.client, 'dgemma.didAccept', values),
    ),
  ];
}

/** The client and the place that a command is for; undefined where there is none, which the user is told. */
export function atCursor(
  server: Server,
  status: StatusItem,
): { client: LanguageClient; editor: vscode.TextEditor; uri: string } | undefined {
  const editor = vscode.window.activeTextEditor;
  if (editor === undefined) {
    tell('open a file first');
  } else if (server.client === undefined) {
    tell(server.problem ?? shown(status.state).text.replace('dgemma: ', 'the server is '));
  } else if (!isWanted(editor.document)) {
    tell(`nothing is done in ${editor.document.languageId} files; see the settings dgemma.languages and dgemma.disabled_languages`);
  } else {
    const uri = server.client.code2ProtocolConverter.asUri(editor.document.uri);
    return { client: server.client, editor, uri };
  }
  return undefined;
}

async function perform(server: Server, status: StatusItem, command: string, place: unknown): Promise<void> {
  const here = atCursor(server, status);
  if (here === undefined) {
    return;
  }
  const range = here.client.code2ProtocolConverter.asRange(here.editor.selection);
  try {
    const done = (await execute(here.client, command, [place ?? { uri: here.uri, range }])) as Applied | null;
    if (done?.failureReason) {
      tell(done.failureReason);
    }
  } catch (error) {
    tell(error instanceof ResponseError ? error.message : String(error));
  }
}

function execute(client: LanguageClient, command: string, values: unknown[]): Promise<unknown> {
  return client.sendRequest(ExecuteCommandRequest.type, { command, arguments: values as never[] });
}

async function explainSilence(server: Server, status: StatusItem): Promise<void> {
  if (status.paused) {
    const resume = 'Resume suggestions';
    const chosen = await vscode.window.showInformationMessage('dgemma: suggestions are paused', resume);
    return chosen === undefined ? undefined : void (await vscode.commands.executeCommand('dgemma.resume'));
  }
  const here = atCursor(server, status);
  if (here === undefined) {
    return;
  }
  const silence = (await execute(here.client, 'dgemma.explainSilence', [here.uri])) as Silence | null;
  if (silence === null) {
    tell('there was something to show at the last request');
  } else {
    const rule = silence.rule === undefined ? '' : ` (${silence.rule})`;
    const [choose, read] = ['Choose checkpoint', 'What to do'];
    const buttons = silence.name === 'LANGUAGE' ? [choose, read] : [read];
    const chosen = await vscode.window.showInformationMessage(`dgemma: nothing was shown because ${silence.reason}${rule}`, ...buttons);
    if (chosen === choose) {
      await vscode.commands.executeCommand('dgemma.chooseCheckpoint');
    } else if (chosen === read) {
      await vscode.commands.executeCommand('dgemma.docs', 'silence');
    }
  }
}
