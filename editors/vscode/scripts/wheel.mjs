// Describe the wheel that `make vscode` has put into server/, for the extension: server/wheel.json.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

const folder = new URL('../server/', import.meta.url);
const wheels = readdirSync(folder).filter((name) => name.endsWith('.whl'));
if (wheels.length !== 1) {
  console.error(`one wheel is wanted in server/, there are ${wheels.length}; run: make vscode`);
  process.exit(1);
}
const [file] = wheels;
const sha256 = createHash('sha256').update(readFileSync(new URL(file, folder))).digest('hex');
const torch = /^torch==(\S+)$/m.exec(readFileSync(new URL('../../../constraints.txt', import.meta.url), 'utf8'))?.[1];
if (torch === undefined) {
  console.error('constraints.txt does not say which torch');
  process.exit(1);
}
writeFileSync(new URL('wheel.json', folder), `${JSON.stringify({ file, sha256, torch }, null, 2)}\n`);
