// A way into the extension host for the tests: runs the code that is posted to it, and answers with its value as JSON.
const http = require('node:http');
const vscode = require('vscode');

const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor;

exports.activate = () => {
  const server = http.createServer(async (request, response) => {
    let code = '';
    for await (const part of request) {
      code += part;
    }
    let answer;
    try {
      answer = { result: (await new AsyncFunction('vscode', 'require', code)(vscode, require)) ?? null };
    } catch (error) {
      answer = { error: String(error?.stack ?? error) };
    }
    response.end(JSON.stringify(answer));
  });
  server.on('error', () => undefined); // another window of the same test has the port
  server.listen(Number(process.env.PROBE_PORT), '127.0.0.1');
};
