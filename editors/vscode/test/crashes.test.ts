import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BACKOFF_MS, Crashes, HEALTHY_MS } from '../src/crashes';

test('the waits grow, and then it gives up, once', () => {
  const crashes = new Crashes();
  const waits = Array.from({ length: BACKOFF_MS.length + 2 }, () => crashes.next(10));
  assert.deepEqual(waits, [...BACKOFF_MS, undefined, BACKOFF_MS[0]]);
});

test('a long life or a restart by hand begins anew', () => {
  const crashes = new Crashes();
  crashes.next(10);
  assert.equal(crashes.next(10), BACKOFF_MS[1]);
  assert.equal(crashes.next(HEALTHY_MS + 1), BACKOFF_MS[0]);
  assert.equal(crashes.next(10), BACKOFF_MS[1]);
  crashes.forget();
  assert.equal(crashes.next(10), BACKOFF_MS[0]);
});
