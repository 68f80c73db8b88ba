#!/bin/sh
# Put the Neovim of a Debian suite into a folder, without installing anything. About 20 MB.
# usage: fetch_neovim.sh SUITE FOLDER        afterwards FOLDER/nvim runs
set -eu
"$(dirname "$0")/../fetch_debian.sh" "$1" "$2" neovim
cat >"$2/nvim" <<'SCRIPT'
#!/bin/sh
folder=$(dirname "$(readlink -f "$0")")
VIMRUNTIME=$folder/unpacked/usr/share/nvim/runtime
LUA_CPATH="$(ls -d "$folder"/unpacked/usr/lib/*-linux-gnu/lua/5.1)/?.so"
export VIMRUNTIME LUA_CPATH
exec "$folder/run" usr/bin/nvim "$@"
SCRIPT
chmod +x "$2/nvim"
"$2/nvim" --version | head -n 1
