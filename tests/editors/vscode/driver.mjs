// A headless Chromium for the tests: one JSON request a line on standard input, one JSON answer a line on standard output.
// Usage: node driver.mjs FOLDER, where FOLDER is what fetch_codeserver.sh has made.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { join, resolve } from 'node:path';

const require = createRequire(join(resolve(process.argv[2]), 'package.json'));
const { chromium } = require('playwright-core');
const { default: binary } = await import(pathToFileURL(require.resolve('@sparticuz/chromium')).href);

const unwanted = ['--single-process', '--no-zygote'];
const args = binary.args.filter((arg) => !unwanted.includes(arg));
const browser = await chromium.launch({ executablePath: await binary.executablePath(), args, headless: true });
const context = await browser.newContext({ viewport: { width: 1000, height: 600 } });
let page;

const methods = {
  async open(url) {
    page = await context.newPage();
    await page.goto(url, { waitUntil: 'commit' });
  },
  async press(keys) {
    for (const key of keys) {
      await page.keyboard.press(key);
    }
  },
  async type(text, delay) {
    for (const character of text) {
      await (character === '\n' ? page.keyboard.press('Enter') : page.keyboard.type(character));
      if (delay) {
        await new Promise((done) => setTimeout(done, delay));
      }
    }
  },
  evaluate: (code) => page.evaluate(code),
  // In whichever frame answers something: webviews are frames in frames.
  async evaluateInFrames(code) {
    for (const frame of page.frames()) {
      const found = await frame.evaluate(code).catch(() => null);
      if (found) {
        return found;
      }
    }
    return null;
  },
  click: (selector) => page.click(selector, { timeout: 20000 }),
  hover: (selector) => page.hover(selector, { timeout: 20000 }),
  // Chromium sometimes waits for a frame that never comes; asked again, it draws one.
  async screenshot(path, clip) {
    for (let tries = 3; tries > 0; tries -= 1) {
      try {
        await page.screenshot({ path, clip: clip ?? undefined, timeout: 10000 });
        return;
      } catch (error) {
        if (tries === 1) {
          throw error;
        }
      }
    }
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { method, params } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await methods[method](...params)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
