#!/bin/sh
# Put a package of a Debian suite into a folder, with all libraries it needs, without installing anything.
# usage: fetch_debian.sh SUITE FOLDER PACKAGE        afterwards FOLDER/run usr/bin/PROGRAM ... runs a program of it
# Wants apt-get and dpkg-deb, and a machine whose package sources name a Debian archive.
set -eu
suite=$1
package=$3
mkdir -p "$2"
folder=$(cd "$2" && pwd)

fail() {
    echo "fetch_debian.sh: $1: $package of Debian $suite cannot be had" >&2
    exit 1
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "no apt-get here"
archive=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 'Created-By: Packages' | awk '$2 == "Debian" { print $1; exit }')
[ -n "$archive" ] || fail "no Debian archive among this machine's package sources"

# apt's own places, moved into the folder: nothing is read or written outside of it.
work=$folder/apt
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/etc/preferences.d"
: >"$work/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] $archive $suite main" >"$work/sources.list"
apt() {
    apt-get -qq -o Dir::State="$work" -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" \
        -o Dir::Cache="$work" -o Dir::Cache::Archives="$work/archives" -o Dir::Etc::SourceList="$work/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::PreferencesParts="$work/etc/preferences.d" \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none "$@"
}
apt update || fail "no package lists"
apt install --yes --download-only --no-install-recommends "$package" || fail "no such package"

rm -rf "$folder/unpacked"
for archived in "$work"/archives/*.deb; do
    dpkg-deb --extract "$archived" "$folder/unpacked"
done
rm -rf "$work"
# With its own loader and libraries: this machine's may be older.
cat >"$folder/run" <<'SCRIPT'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/unpacked
program=$root/$1
shift
loader=$(ls "$root"/lib64/ld-linux-*.so.* "$root"/usr/lib64/ld-linux-*.so.* "$root"/lib/ld-linux-*.so.* "$root"/usr/lib/ld-linux-*.so.* 2>/dev/null | head -n 1)
libraries=$(ls -d "$root"/lib/*-linux-gnu "$root"/usr/lib/*-linux-gnu 2>/dev/null | tr '\n' ':')
exec "$loader" --library-path "$libraries" "$program" "$@"
SCRIPT
chmod +x "$folder/run"
