// A way into the extension host for the tests: runs the code that is posted to it, and answers with its value as JSON.
const http = require('node:http');
const vscode = require('vscode');

const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor;

/** A file system that is on no disk, with one file: folders there are virtual workspaces. */
class Memory {
  files = new Map([['/module.py', Buffer.from('name = ')]]);
  onDidChangeFile = new vscode.EventEmitter().event;

  watch() {
    return { dispose() {} };
  }

  stat({ path }) {
    const file = this.files.get(path);
    if (file === undefined && path !== '/') {
      throw vscode.FileSystemError.FileNotFound(path);
    }
    const type = file === undefined ? vscode.FileType.Directory : vscode.FileType.File;
    return { type, ctime: 0, mtime: 0, size: file?.length ?? 0 };
  }

  readDirectory() {
    return [...this.files.keys()].map((path) => [path.slice(1), vscode.FileType.File]);
  }

  readFile(uri) {
    this.stat(uri);
    return this.files.get(uri.path);
  }

  writeFile({ path }, content) {
    this.files.set(path, Buffer.from(content));
  }

  createDirectory() {}
  delete() {}
  rename() {}
}

exports.activate = () => {
  vscode.workspace.registerFileSystemProvider('memory', new Memory());
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
