/** The language status item, and its menu. */
import * as vscode from 'vscode';
import type { Status } from './protocol';
import type { Server } from './server';
import { wantedLanguages } from './settings';
import { shown, type State } from './statusText';

const SEVERITY = {
  information: vscode.LanguageStatusSeverity.Information,
  warning: vscode.LanguageStatusSeverity.Warning,
  error: vscode.LanguageStatusSeverity.Error,
};

export class StatusItem implements vscode.Disposable {
  private readonly item: vscode.LanguageStatusItem;
  private readonly subscription: vscode.Disposable;
  paused = false;

  constructor(private readonly server: Server) {
    this.item = vscode.languages.createLanguageStatusItem('dgemma.status', []);
    this.item.name = 'dgemma';
    this.item.command = { title: 'Menu', command: 'dgemma.menu' };
    this.subscription = server.onDidChange(() => this.show());
    this.show();
  }

  dispose(): void {
    this.subscription.dispose();
    this.item.dispose();
  }

  get state(): State {
    const { status, problem, outcome } = this.server;
    const uri = vscode.window.activeTextEditor?.document.uri.toString();
    return {
      status,
      paused: this.paused,
      ...(problem === undefined ? {} : { problem }),
      ...(outcome === undefined || outcome.uri !== uri ? {} : { outcome }),
    };
  }

  show(): void {
    const { text, detail, busy, severity } = shown(this.state);
    this.item.selector = wantedLanguages().map((language) => ({ language }));
    this.item.text = text;
    this.item.detail = detail;
    this.item.busy = busy;
    this.item.severity = SEVERITY[severity];
  }

  pause(paused: boolean): void {
    this.paused = paused;
    this.show();
    if (paused) {
      void vscode.commands.executeCommand('editor.action.inlineSuggest.hide');
    }
  }

  async menu(): Promise<void> {
    const { text, detail } = shown(this.state);
    const { status } = this.server;
    const { better, offer, why } = typeof status === 'string' ? {} as Partial<Status> : status;
    const commands: [string, string, string?][] = [
      ...(better === undefined ? [] : [[`$(cloud-download) Get ${better}: ${offer}`, 'dgemma.getCheckpoint', better] as [string, string, string]]),
      this.paused ? ['$(play) Resume suggestions', 'dgemma.resume'] : ['$(debug-pause) Pause suggestions', 'dgemma.pause'],
      ['$(question) Why is nothing suggested?', 'dgemma.why'],
      ['$(eye) Watch it fill', 'dgemma.watch'],
      ['$(output) Open log', 'dgemma.log'],
      ['$(globe) Where does text go?', 'dgemma.engine'],
      ['$(package) Choose checkpoint', 'dgemma.chooseCheckpoint'],
      ['$(settings-gear) Settings', 'dgemma.settings'],
      ['$(book) Questions and answers', 'dgemma.docs'],
      ['$(trash) Remove from the disk', 'dgemma.remove'],
      ['$(debug-restart) Restart server', 'dgemma.restart'],
      ...(this.server.command === undefined ? [['$(cloud-download) Install server', 'dgemma.installServer'] as [string, string]] : []),
    ];
    const items = commands.map(([label, command, argument]) => ({ label, command, argument }));
    const words = [text, ...(detail === '' ? [] : [`(${detail})`]), ...(why === undefined ? [] : [`- this checkpoint because ${why}`])];
    const placeHolder = words.join(' ');
    const chosen = await vscode.window.showQuickPick(items, { placeHolder, title: 'dgemma' });
    if (chosen !== undefined) {
      await vscode.commands.executeCommand(chosen.command, chosen.argument);
    }
  }
}
