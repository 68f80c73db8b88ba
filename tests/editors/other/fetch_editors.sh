#!/bin/sh
# Emacs with eglot and lsp-mode, Kate with a display to draw on, and Helix, as Debian has them.
# usage: fetch_editors.sh FOLDER        afterwards FOLDER/hx runs; the others are installed, which wants root
set -u
failed=0
complain() {
    echo "fetch_editors.sh: $1" >&2
    failed=1
}

missing=
for package in emacs-nox elpa-eglot elpa-lsp-mode kate dbus-daemon xvfb xdotool; do
    dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
done
if [ -n "$missing" ] && [ "$(id -u)" != 0 ]; then
    complain "not installed, and only root can:$missing"
elif [ -n "$missing" ]; then
    apt-get -qq update || complain "no package lists"
    # shellcheck disable=SC2086 # one word for each package
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $missing >/dev/null ||
        complain "not to be had:$missing"
fi

if "$(dirname "$0")/../fetch_debian.sh" trixie "$1" hx; then
    cat >"$1/hx" <<'SCRIPT'
#!/bin/sh
folder=$(dirname "$(readlink -f "$0")")
HELIX_RUNTIME=$folder/unpacked/usr/lib/hx/runtime
export HELIX_RUNTIME
exec "$folder/run" usr/lib/hx/hx "$@"
SCRIPT
    chmod +x "$1/hx"
    "$1/hx" --version
else
    failed=1
fi
exit $failed
