/** What the user has set, as far as the client itself needs it. */
import * as vscode from 'vscode';
import { activationEvents } from '../package.json';

/** What the server has a grammar of, by every name that an editor may give it. */
const LANGUAGES = activationEvents.filter((event) => event.startsWith('onLanguage:')).map((event) => event.slice('onLanguage:'.length));

export function setting<T>(name: string, otherwise: T): T {
  return vscode.workspace.getConfiguration('dgemma').get<T | null>(name) ?? otherwise;
}

/** What fills, as options of the server's commands. */
export function modelOptions(): string[] {
  const named = setting('engine', '') === '' ? ['checkpoint', 'device', 'quantize'] : ['engine', 'engine_token_file'];
  return named.flatMap((name) => (setting(name, '') === '' ? [] : [`--${name.replaceAll('_', '-')}`, setting(name, '')]));
}

/** The languages that the server is started for: those that were named, or else all that it has a grammar of. */
export function wantedLanguages(): readonly string[] {
  const excluded = setting<readonly string[]>('disabled_languages', []);
  return setting<readonly string[]>('languages', LANGUAGES).filter((language) => !excluded.includes(language));
}

export function isWanted(document: vscode.TextDocument): boolean {
  return ['file', 'untitled', 'vscode-notebook-cell'].includes(document.uri.scheme) &&
    wantedLanguages().includes(document.languageId);
}
