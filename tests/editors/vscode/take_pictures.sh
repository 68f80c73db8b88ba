#!/usr/bin/env bash
# The pictures of the extension's README and walkthrough, out of a run of the tests: `make test-editors`, then this.
# The moving one and that of a suggestion are made by record_typing.py.
set -euo pipefail
cd "$(dirname "$0")/../../.."
mkdir -p editors/vscode/images
for name in quickfix preview status watching; do
    cp ".cache/pictures/$name.png" "editors/vscode/images/$name.png"
done
# That of the terminal comes out of `make test`.
cp .cache/pictures/watching-terminal.svg editors/vscode/images/watching-terminal.svg
