/** Which Python an environment can be made with, and what goes into it. Knows nothing of VS Code. */

export const OLDEST: readonly [number, number] = [3, 11];

/** Printed by a Python that is asked what it is: its version, and whether it can make environments. */
export const ASK_PYTHON = 'import sys; print(*sys.version_info[:2]); import ensurepip, venv; print("venv")';

/** What is known of one Python from what it printed. */
export function readPython(printed: string): { version: readonly [number, number]; makesEnvironments: boolean } | undefined {
  const [, major, minor] = /^(\d+) (\d+)/.exec(printed) ?? [];
  if (major === undefined || minor === undefined) {
    return undefined;
  }
  return { version: [Number(major), Number(minor)], makesEnvironments: /^venv$/m.test(printed) };
}

export function isNewEnough([major, minor]: readonly [number, number]): boolean {
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

/** Where a Python may be, the newest first. */
export function pythonNames(windows: boolean): readonly (readonly string[])[] {
  return windows
    ? [['py', '-3'], ['python']]
    : ['python3.14', 'python3.13', 'python3.12', 'python3.11', 'python3', 'python'].map((name) => [name]);
}

/** The package that the extension brings: written by scripts/wheel.mjs. */
export interface Wheel {
  readonly file: string;
  readonly sha256: string;
  /** The version of torch that it was tested with. */
  readonly torch: string;
}

export type TorchBuild = 'cpu' | 'cuda';

const CPU_INDEX = 'https://download.pytorch.org/whl/cpu';

/** Which build of torch suits a machine; only Linux has the choice between the two on PyPI's terms. */
export function torchBuild(platform: string, hasNvidiaDriver: boolean): TorchBuild {
  return platform === 'linux' && hasNvidiaDriver ? 'cuda' : 'cpu';
}

/** What is downloaded and what it takes on the disk, in GB, for people. Measured with torch 2.13. */
export function sizes(build: TorchBuild): { download: number; disk: number } {
  return build === 'cuda' ? { download: 3, disk: 7 } : { download: 0.3, disk: 1.2 };
}

/**
 * Arguments for Python, run after run, that install the wheel with the build of torch. On Linux, PyPI's own is the one for
 * CUDA: the other is taken from its makers' index, which is asked for nothing else.
 */
export function pipRuns(wheelPath: string, wheel: Wheel, build: TorchBuild, platform: string): string[][] {
  const install = ['-I', '-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', '--progress-bar', 'off'];
  if (build === 'cuda' || platform !== 'linux') {
    return [[...install, `torch==${wheel.torch}`, wheelPath]];
  }
  const torch = `torch==${wheel.torch}+cpu`;
  return [
    [...install, '--retries', '1', '--no-deps', '--extra-index-url', CPU_INDEX, torch],
    [...install, torch, wheelPath],
  ];
}

/** A line of pip's output in a few words, or undefined where it says nothing to a user. */
export function pipProgress(line: string): string | undefined {
  const [, verb, rest] = /^\s*(Collecting|Downloading|Installing collected packages|Using cached)\b:?\s*(.*)$/.exec(line) ?? [];
  if (verb === undefined || rest === undefined) {
    return undefined;
  }
  if (verb === 'Installing collected packages') {
    return 'installing';
  }
  const name = /^(?:\S*\/)?([A-Za-z0-9]+(?:[._-][A-Za-z]\w*)*)/.exec(rest)?.[1];
  const size = /\(([\d.]+ [kMG]B)\)/.exec(rest)?.[1];
  return name === undefined ? undefined : `${verb.toLowerCase()} ${name}${size === undefined ? '' : ` (${size})`}`;
}
