/** The commands about checkpoints: to get one, to choose one, and to remove what is on the disk. */
import { lstat, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as vscode from 'vscode';
import { described, inWords, isHere, progressText, readEvent, type PullEvent, type Row, type Survey } from './catalogue';
import type { Command } from './locate';
import { follow, output, UserError } from './programs';
import type { Server } from './server';
import { setting } from './settings';

/** How long the server's command may take to list the checkpoints. */
const LISTING_MS = 60_000;

/** Where the better checkpoint is kept that the user was told of. */
const TOLD = 'betterCheckpoint';

type Item = vscode.QuickPickItem & { readonly act: () => Promise<void> };

export class Checkpoints {
  private readonly pulled = new Set<string>();

  constructor(
    private readonly server: Server,
    private readonly environment: string,
    private readonly log: vscode.LogOutputChannel,
  ) {}

  /** Get a checkpoint, or what is missing of it; whether it is here now. */
  async get(name: string): Promise<boolean> {
    if (this.pulled.has(name)) {
      void vscode.window.showInformationMessage(`dgemma: ${name} is on its way already`);
      return false;
    }
    this.pulled.add(name);
    try {
      const shown = { location: vscode.ProgressLocation.Notification, title: `dgemma: getting ${name}`, cancellable: true };
      const last = await vscode.window.withProgress(shown, (progress, token) => this.pull(name, progress, token));
      if (last.event !== 'done') {
        throw new UserError(last.event === 'progress' ? `getting ${name} ended early; see the log` : last.message);
      }
      this.log.info(last.message);
      return true;
    } catch (error) {
      await this.complain(error);
      return false;
    } finally {
      this.pulled.delete(name);
    }
  }

  /** Say once on this machine that another checkpoint would fill better. */
  async tellOfBetter(told: vscode.Memento): Promise<void> {
    const { status } = this.server;
    if (typeof status === 'string' || status.state !== 'ready' || status.better === undefined || this.pulled.size > 0) {
      return;
    }
    const { better, offer } = status;
    if (told.get(TOLD) === better) {
      return;
    }
    await told.update(TOLD, better);
    const message = `dgemma: ${status.checkpoint} fills now, and ${better} would fill better (${offer})`;
    const [get, choose] = ['Get it', 'Choose checkpoint'];
    const chosen = await vscode.window.showInformationMessage(message, get, choose);
    if (chosen === get) {
      await vscode.commands.executeCommand('dgemma.getCheckpoint', better);
    } else if (chosen === choose) {
      await this.choose();
    }
  }

  /** List what there is, and use what is chosen. */
  async choose(): Promise<void> {
    try {
      const survey = await this.survey();
      const chosen = setting('checkpoint', '');
      const title = `dgemma: choose a checkpoint (now ${chosen || 'automatic'})`;
      const placeHolder = `this machine should use ${survey.recommended.name}: ${survey.recommended.why}`;
      const picked = await vscode.window.showQuickPick(this.items(survey), { title, placeHolder, matchOnDetail: true });
      await picked?.act();
    } catch (error) {
      await this.complain(error);
    }
  }

  /** Say what is on the disk, and delete what is ticked. */
  async remove(): Promise<void> {
    try {
      const found = await this.onDisk();
      if (found.length === 0) {
        void vscode.window.showInformationMessage('dgemma: nothing of it is on this disk but the extension itself');
        return;
      }
      const ticked = await vscode.window.showQuickPick(found, { canPickMany: true, title: 'dgemma: remove from the disk' });
      if (ticked === undefined || ticked.length === 0) {
        return;
      }
      const bytes = inWords(ticked.reduce((sum, item) => sum + item.bytes, 0));
      const detail = ticked.map((item) => `${item.label}: ${item.description}`).join('\n');
      if ((await vscode.window.showWarningMessage(`Delete ${bytes}?`, { modal: true, detail }, 'Delete')) !== 'Delete') {
        return;
      }
      await this.server.stop();
      try {
        for (const item of ticked) {
          await item.act();
        }
      } finally {
        if (typeof this.server.find() !== 'string') {
          await this.server.restart();
        }
      }
      void vscode.window.showInformationMessage(`dgemma: ${bytes} are free again`);
    } catch (error) {
      await this.complain(error);
    }
  }

  private items(survey: Survey): Item[] {
    const { name, why } = survey.used;
    const automatic = { label: 'Automatic', description: `the best that is here: ${name}`, detail: why, act: () => this.use(null) };
    const rows = survey.checkpoints.map((row) => ({
      ...described(row),
      act: () => (isHere(row) ? this.use(row.name) : this.offer(row)),
    }));
    return [
      automatic,
      ...rows,
      { label: 'A .gguf file...', act: () => this.useFile({ canSelectFiles: true, filters: { Checkpoints: ['gguf'] } }) },
      { label: 'A folder...', act: () => this.useFile({ canSelectFolders: true, canSelectFiles: false }) },
      { label: 'A name on the Hugging Face hub...', act: () => this.useHub(survey) },
    ];
  }

  /** Ask before anything is downloaded. */
  private async offer(row: Row): Promise<void> {
    const detail = [row.offer, row.about, row.shortage && `This machine may be too small: ${row.shortage}.`].filter(Boolean).join('\n');
    const chosen = await vscode.window.showInformationMessage(`Get ${row.name}?`, { modal: true, detail }, 'Get it');
    if (chosen === 'Get it' && (await this.get(row.name))) {
      await this.use(row.name);
    }
  }

  private async useFile(options: vscode.OpenDialogOptions): Promise<void> {
    const [picked] = (await vscode.window.showOpenDialog(options)) ?? [];
    if (picked !== undefined) {
      await this.use(picked.fsPath);
    }
  }

  private async useHub(survey: Survey): Promise<void> {
    const prompt = 'a model of the Qwen2 or Llama family, or DiffusionGemma';
    const name = (await vscode.window.showInputBox({ title: 'dgemma: a name on the hub', prompt, placeHolder: 'owner/model' }))?.trim();
    if (!name) {
      return;
    }
    const known = survey.checkpoints.find((row) => row.name === name);
    await (known !== undefined && isHere(known) ? this.use(name) : this.offer(known ?? unknown(name)));
  }

  /** A change of the setting starts the server again. */
  private async use(checkpoint: string | null): Promise<void> {
    if (setting('checkpoint', '') === (checkpoint ?? '')) {
      return this.server.restart();
    }
    await vscode.workspace.getConfiguration('dgemma').update('checkpoint', checkpoint, vscode.ConfigurationTarget.Global);
  }

  private async survey(): Promise<Survey> {
    const { command, args } = this.command();
    const printed = await output(command, [...args, 'checkpoints', '--json'], LISTING_MS);
    try {
      return JSON.parse(printed) as Survey;
    } catch {
      throw new UserError('the server does not say which checkpoints there are; check it');
    }
  }

  private command(): Command {
    const command = this.server.find();
    if (typeof command === 'string') {
      throw new UserError(command);
    }
    return command;
  }

  /** The last thing that the pull said. */
  private async pull(
    name: string,
    progress: vscode.Progress<{ message: string; increment?: number }>,
    token: vscode.CancellationToken,
  ): Promise<PullEvent> {
    const { command, args } = this.command();
    let last: PullEvent = { event: 'failed', message: `${name} cannot be had; see the log` };
    let shown = 0;
    await follow(command, [...args, 'pull', name, '--json'], token, (line, from) => {
      if (from === 'stderr') {
        return this.log.info(line);
      }
      last = readEvent(line) ?? last;
      const percentage = last.event === 'progress' ? 100 * (last.share ?? 0) : shown;
      progress.report({ message: progressText(last), increment: Math.max(0, percentage - shown) });
      shown = Math.max(shown, percentage);
      if (last.event === 'said') {
        this.log.info(last.message);
      }
    });
    return last;
  }

  /** What can be deleted: each checkpoint, forms that were made from other files, and the environment of the extension's own. */
  private async onDisk(): Promise<(Item & { readonly bytes: number })[]> {
    const found: (Item & { readonly bytes: number })[] = [];
    const own = await sizeOf(this.environment);
    const add = (label: string, detail: string, bytes: number, act: () => Promise<void>) =>
      found.push({ label, description: inWords(bytes), detail, bytes, act });
    if (typeof this.server.find() !== 'string') {
      const survey = await this.survey();
      for (const row of survey.checkpoints.filter((row) => row.stored_bytes + row.unfinished_bytes > 0 || row.problem !== null)) {
        const what = row.path === null ? 'an unfinished download, or damaged' : 'a checkpoint, with its converted form';
        add(row.name, `${what}, in ${survey.store}`, row.stored_bytes + row.unfinished_bytes, () => this.removeStored(row.name));
      }
      if (survey.converted_elsewhere_bytes > 0) {
        const detail = 'made from files of your own, which stay';
        add('Converted forms', detail, survey.converted_elsewhere_bytes, () => this.removeStored('converted'));
      }
    }
    if (own > 0) {
      add('The server', this.environment, own, () => rm(this.environment, { recursive: true, force: true }));
    }
    return found;
  }

  private async removeStored(name: string): Promise<void> {
    const { command, args } = this.command();
    const never = new vscode.CancellationTokenSource();
    let said = '';
    const code = await follow(command, [...args, 'remove', name, '--yes'], never.token, (line) => {
      this.log.info(line);
      said = line;
    });
    if (code !== 0) {
      throw new UserError(said.replace('dgemma-lsp: ', ''));
    }
  }

  private async complain(error: unknown): Promise<void> {
    if (error instanceof vscode.CancellationError) {
      void vscode.window.showInformationMessage('dgemma: cancelled; what has arrived is kept, and getting it again continues');
      return;
    }
    const message = error instanceof UserError ? error.message : String(error);
    this.log.error(message);
    const open = 'dgemma: Open log';
    if ((await vscode.window.showErrorMessage(`dgemma: ${message}`, open)) === open) {
      this.log.show(true);
    }
  }
}

function unknown(name: string): Row {
  return { name, about: 'from the Hugging Face hub; its size is not known before', path: null, stored_bytes: 0, unfinished_bytes: 0, problem: null };
}

/** Bytes of the files in a folder, at any depth; 0 where it is missing. */
async function sizeOf(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const sizes = await Promise.all(
    entries.map(async (entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? sizeOf(path) : (await lstat(path).catch(() => undefined))?.size ?? 0;
    }),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}
