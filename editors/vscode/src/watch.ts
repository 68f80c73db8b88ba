/** A view beside the editor that shows how the suggestion at the cursor comes about, pass by pass. */
import * as vscode from 'vscode';
import { atCursor } from './commands';
import { CANVAS, WATCH, type Canvas, type Watched } from './protocol';
import type { Server } from './server';
import { isWanted } from './settings';
import type { StatusItem } from './status';

/** Milliseconds without a change of text or cursor before a fill is asked for, so that suggestions come first. */
const REST_MS = 400;

/** The messages to the page of the view. */
export type ToView =
  | { kind: 'begin'; place: string; before: string }
  | { kind: 'step'; canvas: Canvas }
  | { kind: 'end'; watched: Watched };

export function registerWatch(extension: vscode.Uri, server: Server, status: StatusItem): vscode.Disposable {
  let view: WatchView | undefined;
  return vscode.commands.registerCommand('dgemma.watch', () => {
    const here = atCursor(server, status);
    if (here !== undefined) {
      if (view === undefined) {
        view = new WatchView(extension, server);
        view.panel.onDidDispose(() => (view = undefined));
      }
      view.follow(here.editor);
    }
  });
}

class WatchView {
  readonly panel: vscode.WebviewPanel;
  private editor: vscode.TextEditor | undefined;
  private number = 0;
  private cancellation: vscode.CancellationTokenSource | undefined;
  private timer: NodeJS.Timeout | undefined;
  /** Whether the page listens. A fill that was asked for earlier would be asked for a second time by its "ready". */
  private isReady = false;
  private readonly subscriptions: vscode.Disposable[];
  private listening: { client: unknown; subscription: vscode.Disposable } | undefined;

  constructor(
    extension: vscode.Uri,
    private readonly server: Server,
  ) {
    const media = vscode.Uri.joinPath(extension, 'dist');
    const place = { viewColumn: vscode.ViewColumn.Beside, preserveFocus: true };
    const options = { enableScripts: true, localResourceRoots: [media], retainContextWhenHidden: true };
    this.panel = vscode.window.createWebviewPanel('dgemma.watch', 'dgemma: filling', place, options);
    this.panel.webview.html = page(this.panel.webview, media);
    this.subscriptions = [
      this.panel.webview.onDidReceiveMessage(() => {
        this.isReady = true; // "ready" and "again"
        this.later(0);
      }),
      vscode.window.onDidChangeTextEditorSelection(({ textEditor }) => this.follow(textEditor)),
    ];
    this.panel.onDidDispose(() => this.dispose());
  }

  /** Show the fill at this editor's cursor, once the cursor has been at rest. */
  follow(editor: vscode.TextEditor): void {
    if (isWanted(editor.document)) {
      this.editor = editor;
      this.cancellation?.cancel();
      if (this.isReady) {
        this.later(REST_MS);
      }
    }
  }

  private later(ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.ask(), ms);
  }

  private async ask(): Promise<void> {
    const { editor, server } = this;
    const client = server.client;
    if (editor === undefined || client === undefined) {
      this.tell({ kind: 'end', watched: { reason: server.problem ?? 'the server is not running' } });
      return;
    }
    if (this.listening?.client !== client) {
      this.listening?.subscription.dispose();
      const subscription = client.onNotification(CANVAS, (canvas: Canvas) => {
        if (canvas.watch === this.number) {
          this.tell({ kind: 'step', canvas });
        }
      });
      this.listening = { client, subscription };
    }
    this.cancellation?.cancel();
    const { token } = (this.cancellation = new vscode.CancellationTokenSource());
    const watch = ++this.number;
    const { document, selection } = editor;
    const cursor = selection.active;
    const place = `${vscode.workspace.asRelativePath(document.uri)}:${cursor.line + 1}:${cursor.character + 1}`;
    this.tell({ kind: 'begin', place, before: document.lineAt(cursor.line).text.slice(0, cursor.character) });
    const textDocument = { uri: client.code2ProtocolConverter.asUri(document.uri) };
    try {
      const position = client.code2ProtocolConverter.asPosition(cursor);
      const watched = await client.sendRequest<Watched>(WATCH, { textDocument, position, watch }, token);
      if (watch === this.number) {
        this.tell({ kind: 'end', watched });
      }
    } catch (error) {
      if (watch === this.number && !token.isCancellationRequested) {
        this.tell({ kind: 'end', watched: { reason: error instanceof Error ? error.message : String(error) } });
      }
    }
  }

  private tell(message: ToView): void {
    void this.panel.webview.postMessage(message);
  }

  private dispose(): void {
    clearTimeout(this.timer);
    this.cancellation?.cancel();
    this.listening?.subscription.dispose();
    vscode.Disposable.from(...this.subscriptions).dispose();
  }
}

function page(webview: vscode.Webview, media: vscode.Uri): string {
  const script = webview.asWebviewUri(vscode.Uri.joinPath(media, 'watch.js'));
  const style = webview.asWebviewUri(vscode.Uri.joinPath(media, 'watch.css'));
  const policy = `default-src 'none'; style-src ${webview.cspSource}; script-src ${webview.cspSource}`;
  return `<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta http-equiv="Content-Security-Policy" content="${policy}">
  <link rel="stylesheet" href="${style}">
  <title>Filling</title>
</head>
<body>
  <header><span id="place"></span><span id="counts"></span></header>
  <pre id="canvas"></pre>
  <p id="end"></p>
  <footer>
    <div id="controls">
      <button id="again" title="Fill again">Again</button>
      <button id="play" title="Play or pause">Pause</button>
      <input id="step" type="range" min="0" max="0" value="0" aria-label="Step">
    </div>
    <p class="legend written-only">
      <span class="drafted">drafted and accepted</span> <span class="refused">drafted and refused</span>
      <span class="written">the writer's own</span> <span class="chosen">chosen instead</span>
      the fainter, the less certain; ▪ is the end of the text
    </p>
    <p class="legend canvas-only">
      <span class="accepted">accepted</span> <span class="revised">accepted, then revised</span>
      <span class="renoised">accepted, then noise again</span> <span class="noise">noise</span>
      the fainter, the less certain; ▪ is the end of the text
    </p>
  </footer>
  <script src="${script}"></script>
</body>
</html>`;
}
