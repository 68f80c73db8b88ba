#!/usr/bin/env bash
# The pictures of the extension's README and walkthrough, out of a run of the tests: `make test-editors`, then this.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p editors/vscode/images
for name in ghost quickfix preview status denoising; do
    cp ".cache/pictures/$name.png" "editors/vscode/images/$name.png"
done
