import assert from 'node:assert/strict';
import { test } from 'node:test';
import { locate, type Surroundings } from '../src/locate';

function found(there: readonly string[], more: Partial<Surroundings> = {}): string {
  const where: Surroundings = {
    setting: '',
    trustedFolders: [],
    own: '/storage/server',
    searchPath: '/usr/bin:/home/me/bin',
    windows: false,
    exists: (path) => there.includes(path),
    ...more,
  };
  const result = locate(where);
  return typeof result === 'string' ? result : [result.source, result.command, ...result.args].join(' ');
}

const OF_FOLDER = ['/project/.venv/bin/python', '/project/.venv/bin/dgemma-lsp'];
const OWN = ['/storage/server/bin/python', '/storage/server/bin/dgemma-lsp'];
const IN_PATH = ['/usr/bin/dgemma-lsp'];

test('the setting goes first', () => {
  const there = ['/opt/dgemma-lsp', ...OF_FOLDER, ...OWN, ...IN_PATH];
  assert.equal(found(there, { setting: '/opt/dgemma-lsp', trustedFolders: ['/project'] }), 'setting /opt/dgemma-lsp');
});

test('a Python in the setting runs the module, isolated', () => {
  for (const name of ['python', 'python3', 'python3.12']) {
    assert.equal(found([`/opt/bin/${name}`], { setting: `/opt/bin/${name}` }), `setting /opt/bin/${name} -I -m dgemma_lsp`);
  }
});

test('a setting that leads nowhere is said, and nothing else is started', () => {
  const said = found([...OWN, ...IN_PATH], { setting: '/gone/dgemma-lsp' });
  assert.equal(said, "'/gone/dgemma-lsp' was not found; correct the setting dgemma.server.path, an absolute path, or clear it");
});

test('a path that depends on the current folder is none', () => {
  assert.match(found(['dgemma-lsp', 'bin/dgemma-lsp'], { setting: 'bin/dgemma-lsp' }), /absolute path/);
});

test("a trusted workspace's environment goes before the extension's own", () => {
  const started = 'workspace /project/.venv/bin/python -I -m dgemma_lsp';
  assert.equal(found([...OF_FOLDER, ...OWN], { trustedFolders: ['/other', '/project'] }), started);
});

test('an environment without the server is none', () => {
  assert.match(found(['/project/.venv/bin/python', ...OWN], { trustedFolders: ['/project'] }), /^own /);
});

test('of an untrusted workspace nothing is run', () => {
  assert.equal(found([...OF_FOLDER, ...OWN]), 'own /storage/server/bin/python -I -m dgemma_lsp');
});

test('PATH is the last resort, and only its absolute folders', () => {
  assert.equal(found(IN_PATH), 'PATH /usr/bin/dgemma-lsp');
  assert.match(found(['dgemma-lsp', './dgemma-lsp'], { searchPath: '.::bin' }), /not installed/);
});

test('where there is none, it says what to do', () => {
  assert.equal(found([]), "the server is not installed; run the command 'dgemma: Install server'");
});
