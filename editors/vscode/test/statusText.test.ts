import assert from 'node:assert/strict';
import { test } from 'node:test';
import { shown, whereTextGoes, type State } from '../src/statusText';

const READY = { state: 'ready', message: 'embedded on cpu' } as const;

function line(state: Partial<State>): string {
  const { text, detail, busy, severity } = shown({ status: READY, paused: false, ...state });
  return `${text} | ${detail} | ${severity}${busy ? ' busy' : ''}`;
}

test('what it says', () => {
  const loading = { state: 'loading', message: 'loading the model', percentage: 42.4 } as const;
  assert.equal(line({ status: loading }), 'dgemma: loading 42 % | loading the model | information busy');
  assert.equal(line({}), 'dgemma: ready | embedded on cpu | information');
  assert.equal(line({ outcome: { uri: 'a', ms: 84.6 } }), 'dgemma: ready | embedded on cpu · last fill 85 ms | information');
  const reason = 'the cursor is in a comment';
  assert.equal(line({ outcome: { uri: 'a', ms: 84, reason } }), `dgemma: quiet | embedded on cpu · last fill 84 ms · ${reason} | information`);
  assert.equal(line({ paused: true }), 'dgemma: paused | embedded on cpu | warning');
  assert.equal(line({ status: 'absent' }), 'dgemma: not running |  | warning');
});

test('what is wrong goes before everything else', () => {
  assert.equal(line({ problem: 'it broke; mend it' }), 'dgemma: not running | it broke; mend it | error');
  const failed = { state: 'failed', message: 'the weights are truncated' } as const;
  assert.equal(line({ status: failed, paused: true }), 'dgemma: no model | the weights are truncated | error');
});

test('a checkpoint that would fill better is a warning', () => {
  const status = { state: 'ready', message: 'embedded on cpu', better: 'large', offer: '491 MB' } as const;
  const { text, detail, severity } = shown({ status, paused: false });
  assert.deepEqual([text, detail, severity], ['dgemma: ready', 'embedded on cpu · large would fill better', 'warning']);
});

test('an engine that does not fill is no missing model, and where text goes is said', () => {
  const engine = { engine: 'http://gpu:8000', text_goes_to: 'http://gpu:8000, another machine, NOT encrypted', why: 'named in the settings' };
  const failed = { state: 'failed', message: 'http://gpu:8000 cannot be reached', ...engine } as const;
  assert.equal(line({ status: failed }), 'dgemma: no engine | http://gpu:8000 cannot be reached | error');
  const said = 'text goes to http://gpu:8000, another machine, NOT encrypted (named in the settings); http://gpu:8000 cannot be reached';
  assert.equal(whereTextGoes(failed), said);
  assert.equal(whereTextGoes(READY), 'text goes nowhere: the model runs inside the server');
  assert.equal(whereTextGoes('stopped'), 'the server is not running');
});
