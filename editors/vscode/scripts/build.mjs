// Bundle the extension and its webview into dist/, with the licences of what is bundled.
import { build } from 'esbuild';
import { copyFile, cp, readdir, readFile, writeFile } from 'node:fs/promises';

const common = { bundle: true, minify: true, metafile: true, logLevel: 'warning' };
const extension = await build({
  ...common,
  entryPoints: ['src/extension.ts'],
  outfile: 'dist/extension.js',
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  external: ['vscode'],
});
await build({ ...common, entryPoints: ['src/webview/watch.ts'], outfile: 'dist/watch.js', platform: 'browser', target: 'es2022' });
await copyFile('src/webview/watch.css', 'dist/watch.css');
await cp('../../docs', 'dist/docs', { recursive: true });

const inputs = Object.keys(extension.metafile.inputs).map((path) => /^node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0]);
const notices = [];
for (const folder of [...new Set(inputs)].filter(Boolean).sort()) {
  const { name, version, license } = JSON.parse(await readFile(`${folder}/package.json`, 'utf8'));
  const file = (await readdir(folder)).find((found) => /^licen[cs]e/i.test(found));
  if (file === undefined) {
    throw new Error(`${folder} has no licence file`);
  }
  notices.push(`${name} ${version} (${license})\n\n${(await readFile(`${folder}/${file}`, 'utf8')).trim()}\n`);
}
await writeFile('dist/THIRD-PARTY-LICENSES.txt', notices.join(`\n${'-'.repeat(80)}\n\n`));
