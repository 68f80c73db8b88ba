/** The pages that answer questions; they come with the extension. */
import * as vscode from 'vscode';

const PAGES: Readonly<Record<string, string>> = {
  checkpoints: 'Which checkpoint for my machine?',
  privacy: 'What is read, and where does it go?',
  silence: 'Why is nothing shown?',
  team: 'How does a team share one model?',
  removing: 'How do I remove everything?',
};

/** Show a page by its name; without one, ask which. */
export async function showPage(extension: vscode.Uri, name?: string): Promise<void> {
  const items = Object.entries(PAGES).map(([page, label]) => ({ label, page }));
  const page = name ?? (await vscode.window.showQuickPick(items, { title: 'dgemma' }))?.page;
  if (page !== undefined && page in PAGES) {
    await vscode.commands.executeCommand('markdown.showPreview', vscode.Uri.joinPath(extension, 'dist', 'docs', `${page}.md`));
  }
}
