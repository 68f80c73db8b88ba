import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isNewEnough, pipRuns, pipProgress, readPython, torchBuild } from '../src/python';

test('what a Python says of itself', () => {
  assert.deepEqual(readPython('3 12\nvenv\n'), { version: [3, 12], makesEnvironments: true });
  assert.deepEqual(readPython('3 11\n'), { version: [3, 11], makesEnvironments: false });
  assert.equal(readPython(''), undefined);
  assert.equal(readPython('This is the shop for apps'), undefined);
});

test('3.11 and later will do', () => {
  const answers = ([[2, 7], [3, 6], [3, 10], [3, 11], [3, 14], [4, 0]] as const).map(isNewEnough);
  assert.deepEqual(answers, [false, false, false, true, true, true]);
});

test('without an NVIDIA driver it is the CPU build', () => {
  assert.equal(torchBuild('linux', false), 'cpu');
  assert.equal(torchBuild('linux', true), 'cuda');
  assert.equal(torchBuild('darwin', false), 'cpu');
  assert.equal(torchBuild('win32', true), 'cpu');
});

test('the build of torch that pip is told', () => {
  const wheel = { file: 'w.whl', sha256: '', torch: '2.13.0' };
  const told = (build: 'cpu' | 'cuda', platform: string): string[] =>
    pipRuns('/x/w.whl', wheel, build, platform).map((run) => run.slice(8).join(' '));
  assert.deepEqual(told('cpu', 'linux'), [
    '--retries 1 --no-deps --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu',
    'torch==2.13.0+cpu /x/w.whl',
  ]);
  assert.deepEqual(told('cuda', 'linux'), ['torch==2.13.0 /x/w.whl']);
  assert.deepEqual(told('cpu', 'darwin'), ['torch==2.13.0 /x/w.whl']);
});

test("pip's lines in a few words", () => {
  assert.equal(pipProgress('Collecting tree-sitter>=0.26.1 (from dgemma-lsp==0.1.0)'), 'collecting tree-sitter');
  const line = '  Downloading https://files/torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl (191.8 MB)';
  assert.equal(pipProgress(line), 'downloading torch (191.8 MB)');
  assert.equal(pipProgress('Installing collected packages: mpmath, torch'), 'installing');
  assert.equal(pipProgress('  Preparing metadata (pyproject.toml)'), undefined);
});
