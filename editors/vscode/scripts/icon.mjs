// Draw icon.png: a block of tokens, some of them decided, the rest noise. 128 x 128, without any dependency.
import { writeFileSync } from 'node:fs';
import { crc32, deflateSync } from 'node:zlib';

const SIZE = 128;
const [BACKGROUND, DECIDED, LIKELY, NOISE] = [[22, 27, 34], [115, 201, 145], [117, 190, 255], [72, 79, 88]];
// Rows of tokens: where each begins, how wide it is, what colour it has.
const ROWS = [
  [[0, 3, DECIDED], [4, 2, DECIDED], [7, 4, LIKELY]],
  [[1, 2, DECIDED], [4, 4, NOISE], [9, 2, DECIDED]],
  [[1, 4, LIKELY], [6, 2, DECIDED], [9, 2, NOISE]],
  [[1, 1, NOISE], [3, 3, DECIDED], [7, 4, NOISE]],
  [[0, 2, DECIDED], [3, 5, LIKELY], [9, 1, DECIDED]],
];
const [LEFT, TOP, UNIT, HEIGHT, PITCH] = [15, 16, 9, 13, 21];

const pixels = Array.from({ length: SIZE }, () => Array.from({ length: SIZE }, () => BACKGROUND));
ROWS.forEach((row, line) => {
  for (const [start, width, colour] of row) {
    for (let y = 0; y < HEIGHT; y++) {
      for (let x = 0; x < width * UNIT - 3; x++) {
        pixels[TOP + line * PITCH + y][LEFT + start * UNIT + x] = colour;
      }
    }
  }
});

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  check.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, check]);
}

const header = Buffer.alloc(13);
header.writeUInt32BE(SIZE, 0);
header.writeUInt32BE(SIZE, 4);
header.set([8, 2, 0, 0, 0], 8); // eight bits, red green blue
const lines = Buffer.concat(pixels.map((row) => Buffer.from([0, ...row.flat()])));
const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const png = Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', deflateSync(lines)), chunk('IEND', Buffer.alloc(0))]);
writeFileSync(new URL('../icon.png', import.meta.url), png);
