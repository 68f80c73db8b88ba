/** What the user has set, as far as the client itself needs it. */
import * as vscode from 'vscode';

/** VS Code's names of the languages that the server has a grammar of. */
export const LANGUAGES: readonly string[] = [
  ...['python', 'javascript', 'javascriptreact', 'typescript', 'typescriptreact', 'go', 'rust', 'java', 'c', 'cpp'],
  ...['csharp', 'ruby', 'php', 'lua', 'shellscript', 'html', 'css', 'json', 'jsonc', 'yaml', 'toml', 'markdown', 'sql'],
];

export function setting<T>(name: string, otherwise: T): T {
  return vscode.workspace.getConfiguration('dgemma').get<T | null>(name) ?? otherwise;
}

/** The languages that the server is started for: those that were named, or else those that the checkpoint may know. */
export function wantedLanguages(): readonly string[] {
  const known = setting('checkpoint', '') === '' ? ['python'] : LANGUAGES;
  return setting<readonly string[]>('languages', known);
}

export function isWanted(document: vscode.TextDocument): boolean {
  return ['file', 'untitled', 'vscode-notebook-cell'].includes(document.uri.scheme) &&
    wantedLanguages().includes(document.languageId);
}
