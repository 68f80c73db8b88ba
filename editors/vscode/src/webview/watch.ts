/** The page of the view. A pass takes milliseconds; the page shows one after the other slowly enough to watch. */
import type { Canvas, CanvasToken, Watched } from '../protocol';
import type { ToView } from '../watch';

declare function acquireVsCodeApi(): { postMessage(message: unknown): void };

const PACE_MS = 220;
/** Shown for the token that ends the text, and that fills the rest of a canvas. */
const END = '▪';
const vscode = acquireVsCodeApi();

let steps: Canvas[] = [];
let at = -1;
let playing = true;
let before = '';
let end: Watched | undefined;
let timer = 0;

function element<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) {
    throw new Error(`no element ${id}`);
  }
  return found as T;
}

const slider = element<HTMLInputElement>('step');

/** The CSS class for a confidence, one for each tenth: the page's content policy allows no inline styles. */
function tenth(confidence: number): string {
  return `c${Math.min(9, Math.max(0, Math.floor(confidence * 10)))}`;
}

function drawn(token: CanvasToken): HTMLElement {
  const span = document.createElement('span');
  const isEnd = token.text === '';
  span.className = `token ${token.state} ${tenth(token.confidence)}`;
  span.textContent = isEnd ? END : token.text.replaceAll('\n', '⏎\n');
  span.title = `${isEnd ? 'end of the text, ' : ''}${token.state}, ${Math.round(token.confidence * 100)} %`;
  return span;
}

/** One line about a pass or step. */
function headline({ check, step, ms }: Canvas): string {
  const took = `${ms.toFixed(1)} ms`;
  if (check === undefined) {
    return `step ${step} · ${took}`;
  }
  const drafts = check.drafted === 0 ? 'no draft' : `${check.by} drafted ${check.drafted}, ${check.accepted} accepted`;
  return `pass ${step} · ${took} · ${drafts} · ${check.written} written`;
}

/** A sentence with the passes, tokens and time of the whole fill. */
function summary(): string {
  const passes = steps[steps.length - 1]?.step ?? 0;
  const ms = steps.reduce((sum, step) => sum + step.ms, 0).toFixed(0);
  if (!isWritten()) {
    return `${passes} steps, ${ms} ms. `;
  }
  const tokens = steps.reduce((sum, { check }) => sum + (check?.written ?? 0), 0);
  return `${tokens} tokens in ${passes} ${passes === 1 ? 'pass' : 'passes'}, ${(tokens / Math.max(1, passes)).toFixed(1)} a pass, ${ms} ms. `;
}

/** Whether the fill is written from left to right; otherwise it is denoised. */
function isWritten(): boolean {
  return steps.some(({ check }) => check !== undefined);
}

function draw(): void {
  document.body.classList.toggle('written-fill', isWritten());
  const canvas = steps[at];
  const context = document.createElement('span');
  context.className = 'before';
  context.textContent = before;
  element('canvas').replaceChildren(context, ...(canvas?.tokens.map(drawn) ?? []));
  const last = at === steps.length - 1;
  element('counts').textContent = canvas === undefined ? '' : headline(canvas);
  slider.max = String(Math.max(0, steps.length - 1));
  slider.value = String(Math.max(0, at));
  element('play').textContent = playing && !last ? 'Pause' : 'Play';
  if (end === undefined || !last) {
    element('end').textContent = end === undefined && steps.length === 0 ? 'waiting for the model ...' : '';
  } else {
    const took = canvas === undefined ? '' : summary();
    element('end').textContent = took + (end.reason === undefined ? '' : `Nothing to insert: ${end.reason}.`);
  }
}

function tick(): void {
  if (playing && at < steps.length - 1) {
    at += 1;
    draw();
  }
}

window.addEventListener('message', ({ data }: MessageEvent<ToView>) => {
  switch (data.kind) {
    case 'begin':
      steps = [];
      at = -1;
      end = undefined;
      playing = true;
      before = data.before;
      element('place').textContent = data.place;
      break;
    case 'step':
      steps.push(data.canvas);
      break;
    case 'end':
      end = data.watched;
      break;
  }
  draw();
  if (timer === 0) {
    timer = window.setInterval(tick, PACE_MS);
  }
});

element('again').addEventListener('click', () => vscode.postMessage('again'));
element('play').addEventListener('click', () => {
  if (at === steps.length - 1) {
    at = -1;
    playing = true;
  } else {
    playing = !playing;
  }
  draw();
});
slider.addEventListener('input', () => {
  playing = false;
  at = Number(slider.value);
  draw();
});
vscode.postMessage('ready');
