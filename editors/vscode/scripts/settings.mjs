// Take the server's settings over into package.json: `node scripts/settings.mjs` writes, `... --check` fails where they differ.
import { readFileSync, writeFileSync } from 'node:fs';

const file = new URL('../package.json', import.meta.url);
const schema = JSON.parse(readFileSync(new URL('../../settings.schema.json', import.meta.url), 'utf8'));
const manifest = JSON.parse(readFileSync(file, 'utf8'));

/** What says which program or weights are run is for the user, not for a workspace that he only looks at. */
const restricted = ['server.path', 'engine', 'engine_token_file', 'checkpoint', 'device', 'quantize'];
/** What decides where text goes, and with which token, is for the user alone, whatever workspace he trusts. */
const ofTheMachine = ['engine', 'engine_token_file'];

const own = {
  'dgemma.server.path': {
    type: 'string',
    default: '',
    scope: 'machine-overridable',
    order: 0,
    markdownDescription:
      'the server to start: the path of `dgemma-lsp`, or of a Python that has it; empty looks in the environment of a trusted ' +
      "workspace (`.venv`, `venv`), then in the extension's own (*dgemma: Install server*), then in `PATH`",
  },
};
const servers = Object.entries(schema.properties).map(([name, { description, ...rest }], index) => [
  `dgemma.${name}`,
  {
    ...rest,
    scope: ofTheMachine.includes(name) ? 'machine' : restricted.includes(name) ? 'machine-overridable' : 'window',
    order: index + 1,
    markdownDescription: description,
  },
]);
manifest.contributes.configuration = { title: 'dgemma', properties: { ...own, ...Object.fromEntries(servers) } };
manifest.capabilities.untrustedWorkspaces.restrictedConfigurations = restricted.map((name) => `dgemma.${name}`);

const text = `${JSON.stringify(manifest, null, 2)}\n`;
if (!process.argv.includes('--check')) {
  writeFileSync(file, text);
} else if (text !== readFileSync(file, 'utf8')) {
  console.error('package.json does not have the settings of ../settings.schema.json; run: node scripts/settings.mjs');
  process.exit(1);
}
