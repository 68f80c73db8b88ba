/** Which server is started: the one that was named, then what is installed. Knows nothing of VS Code. */
import { basename, delimiter, isAbsolute, join } from 'node:path';

/** How a server is started. */
export interface Command {
  readonly command: string;
  readonly args: readonly string[];
  readonly source: 'setting' | 'workspace' | 'own' | 'PATH';
}

export interface Surroundings {
  /** The setting `dgemma.server.path`; empty if there is none. */
  readonly setting: string;
  /** The folders of a workspace that the user trusts; none of any other. */
  readonly trustedFolders: readonly string[];
  /** The environment that *dgemma: Install server* makes. */
  readonly own: string;
  /** The variable `PATH`. */
  readonly searchPath: string;
  readonly windows: boolean;
  readonly exists: (path: string) => boolean;
}

/** Isolated: neither the working directory, nor `PYTHONPATH`, nor what else the user's account has is imported. */
export const AS_MODULE: readonly string[] = ['-I', '-m', 'dgemma_lsp'];

/** The Python of an environment. */
export function pythonIn(environment: string, windows: boolean): string {
  return windows ? join(environment, 'Scripts', 'python.exe') : join(environment, 'bin', 'python');
}

/** The command to start, or what is wrong: one sentence with one thing to do. */
export function locate(where: Surroundings): Command | string {
  if (where.setting) {
    return isAbsolute(where.setting) && where.exists(where.setting)
      ? { ...asCommand(where.setting), source: 'setting' }
      : `'${where.setting}' was not found; correct the setting dgemma.server.path, an absolute path, or clear it`;
  }
  const script = where.windows ? 'dgemma-lsp.exe' : 'dgemma-lsp';
  for (const folder of where.trustedFolders) {
    for (const name of ['.venv', 'venv']) {
      const python = pythonIn(join(folder, name), where.windows);
      if (where.exists(python) && where.exists(join(python, '..', script))) {
        return { command: python, args: AS_MODULE, source: 'workspace' };
      }
    }
  }
  const own = pythonIn(where.own, where.windows);
  if (where.exists(own) && where.exists(join(own, '..', script))) {
    return { command: own, args: AS_MODULE, source: 'own' };
  }
  for (const folder of where.searchPath.split(delimiter).filter(isAbsolute)) {
    if (where.exists(join(folder, script))) {
      return { command: join(folder, script), args: [], source: 'PATH' };
    }
  }
  return "the server is not installed; run the command 'dgemma: Install server'";
}

function asCommand(path: string): { command: string; args: readonly string[] } {
  const isPython = /^python[\d.]*(\.exe)?$/i.test(basename(path));
  return { command: path, args: isPython ? AS_MODULE : [] };
}
