import assert from 'node:assert/strict';
import { test } from 'node:test';
import { described, inWords, isHere, progressText, readEvent, type Row } from '../src/catalogue';

const ROW: Row = {
  name: 'some',
  about: 'a network',
  suits: 'laptops',
  offer: '491 MB, 92 languages',
  shortage: null,
  repository: 'owner/some',
  path: null,
  stored_bytes: 0,
  unfinished_bytes: 0,
  problem: null,
};

test('a row says whether it is here, how far it is, or why it cannot be', () => {
  assert.equal(described(ROW).description, 'not on this machine');
  assert.equal(described(ROW).detail, '491 MB, 92 languages; a network; for laptops');
  assert.equal(described({ ...ROW, path: '/store/some', stored_bytes: 930_000_000 }).description, 'here, 930 MB');
  assert.equal(described({ ...ROW, unfinished_bytes: 100_000_000 }).description, '100 MB have arrived');
  assert.equal(described({ ...ROW, repository: null }).description, 'inside the package');
  assert.equal(described({ ...ROW, problem: 'source.json is damaged' }).description, 'damaged');
  const large = described({ ...ROW, shortage: 'it needs 9.0 GB of memory, and 4.0 GB are free' });
  assert.equal(large.description, 'too large for this machine');
  assert.match(large.detail, /4\.0 GB are free$/);
});

test('only what is on the disk or in the package is here', () => {
  assert.equal(isHere(ROW), false);
  assert.equal(isHere({ ...ROW, path: '/store/some' }), true);
  assert.equal(isHere({ ...ROW, repository: null }), true);
});

test('progress in per cent, which is never rounded up', () => {
  const event = { event: 'progress', doing: 'some.gguf', share: 0.9999, bytes: 491_000_000 } as const;
  assert.equal(progressText(event), 'some.gguf: 99 %, 491 MB');
  assert.equal(progressText({ ...event, share: null }), 'some.gguf, 491 MB');
  assert.equal(progressText({ ...event, doing: 'converting', share: 0.5 }), 'converting: 50 %');
  assert.equal(progressText({ event: 'said', message: 'waiting' }), 'waiting');
});

test('what is no event is passed over', () => {
  assert.deepEqual(readEvent('{"event": "said", "message": "x"}'), { event: 'said', message: 'x' });
  for (const line of ['', 'a warning', '{', 'null', '1', '{}', '{"event": 3}']) {
    assert.equal(readEvent(line), undefined, line);
  }
});

test('sizes in decimal units', () => {
  assert.deepEqual([999, 1_000, 27_400_000, 491_400_064, 1_200_000_000].map(inWords), ['999 bytes', '1 kB', '27 MB', '491 MB', '1.2 GB']);
});
