/** Edits reach the text that they were computed for, or nothing; and who asked hears why. */
import * as vscode from 'vscode';
import type { ApplyWorkspaceEditParams, Middleware } from 'vscode-languageclient';

const CHANGED = 'the document has changed meanwhile; ask again';

export function tell(message: string): void {
  void vscode.window.showInformationMessage(`dgemma: ${message}`);
}

export const EDITS: Middleware = {
  /** VS Code itself applies what an action resolves to, whatever the text has become. */
  resolveCodeAction: async (action, token, next) => {
    const asked = new Map(vscode.workspace.textDocuments.map(({ uri, version }) => [uri.toString(), version]));
    try {
      const resolved = await next(action, token);
      const edited = resolved?.edit?.entries().map(([uri]) => uri.toString()) ?? [];
      if (edited.length > 0 && edited.every((uri) => asked.get(uri) === versionOf(uri))) {
        return resolved;
      }
      if (!token.isCancellationRequested) {
        tell(CHANGED);
      }
    } catch (error) {
      if (!token.isCancellationRequested && !(error instanceof vscode.CancellationError)) {
        tell(error instanceof Error ? error.message : String(error));
      }
    }
    delete action.edit;
    return action;
  },
  workspace: {
    /** A file that is gone does not come back by an edit; VS Code knows its text for a while. */
    handleApplyEdit: async (params, next) =>
      (await allThere(params)) ? next(params, new vscode.CancellationTokenSource().token) : { applied: false, failureReason: CHANGED },
  },
};

function versionOf(uri: string): number | undefined {
  return vscode.workspace.textDocuments.find((document) => document.uri.toString() === uri)?.version;
}

async function allThere({ edit }: ApplyWorkspaceEditParams): Promise<boolean> {
  for (const change of edit.documentChanges ?? []) {
    const uri = 'textDocument' in change ? vscode.Uri.parse(change.textDocument.uri) : undefined;
    if (uri?.scheme === 'file') {
      try {
        await vscode.workspace.fs.stat(uri);
      } catch {
        return false;
      }
    }
  }
  return true;
}
