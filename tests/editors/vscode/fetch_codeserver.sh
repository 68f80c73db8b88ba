#!/usr/bin/env bash
# VS Code as code-server has it, and a headless Chromium to see it in, from npm packages alone, into a folder.
# Usage: fetch_codeserver.sh FOLDER. Needs npm, a C++ compiler and make. Nothing is changed outside of the folder.
set -euo pipefail

folder=$1
code_server=4.139.1
quiet=(--no-audit --no-fund --loglevel=error)

if [[ -f "$folder/complete-$code_server" ]]; then
    exit 0
fi
for tool in npm make g++; do
    command -v "$tool" >/dev/null || { echo "fetch_codeserver.sh: $tool is not there; install it" >&2; exit 1; }
done
mkdir -p "$folder"
cd "$folder"
# It runs on this version of Node only, which npm has, too.
[[ -f node24/package.json ]] || { mkdir -p node24; echo '{"private": true}' >node24/package.json; }
(cd node24 && npm install "${quiet[@]}" node@24)
PATH=$PWD/node24/node_modules/node/bin:$PATH
[[ $(node --version) == v24.* ]] || { echo "fetch_codeserver.sh: npm's package of Node 24 does not run" >&2; exit 1; }
if [[ -z ${npm_config_nodedir:-} && -f /usr/include/node/node_api.h ]]; then
    export npm_config_nodedir=/usr # or node-gyp fetches headers
fi

[[ -f package.json ]] || echo '{"private": true}' >package.json
# No install scripts: one of them wants headers of Kerberos, which is of no use here.
npm install "${quiet[@]}" --ignore-scripts "code-server@$code_server" @sparticuz/chromium@153 playwright-core@1.65
cd node_modules/code-server/lib/vscode
npm install "${quiet[@]}" --omit=dev --ignore-scripts
(cd extensions && npm install "${quiet[@]}" --omit=dev --ignore-scripts)
npm rebuild "${quiet[@]}" @vscode/spdlog @vscode/native-watchdog @vscode/sqlite3 @parcel/watcher @vscode/deviceid \
    @vscode/fs-copyfile
cd ../..
npm rebuild "${quiet[@]}" argon2
cd ../..
touch "complete-$code_server"
