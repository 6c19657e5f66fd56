#!/usr/bin/env bash
# Brings CPythons that are newer than the system's, from a later suite of Debian, and puts them beside
# the system: `newer_pythons.sh FOLDER VERSION...`, then FOLDER/usr/bin/pythonVERSION runs. The
# system's apt is not changed. A version that the suite does not have is named. SUITE chooses another.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 FOLDER VERSION..." >&2; exit 2; }
root=$(realpath -m "$1")
shift
suite=${SUITE:-forky}

wanted=()
for version in "$@"; do
    "$root/usr/bin/python$version" -c 'import ssl' 2>/dev/null || wanted+=("$version")
done
[ ${#wanted[@]} -gt 0 ] || exit 0
set -- "${wanted[@]}"

. /etc/os-release
if [ "$ID" != debian ] || [ "$(id -u)" != 0 ]; then
    echo "NOT INSTALLED: Python $* (needs Debian and root; elsewhere bring them by pyenv and the like)"
    exit 0
fi
if ! type patchelf dpkg-deb >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends patchelf >/dev/null
fi

# An apt with an empty state, so that all that the packages need comes along, libc too.
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt"/lists/partial "$apt"/cache/archives/partial "$root"
touch "$apt/status"
mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
mirror=${mirror:-$(awk '$1 == "deb" && $2 ~ /^http/ { print $2; exit }' /etc/apt/sources.list)}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
    > "$apt/sources.list"
cat > "$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list"; Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$apt/lists"; Dir::Cache "$apt/cache"; Dir::State::status "$apt/status";
APT::Sandbox::User "root"; APT::Install-Recommends "false"; Acquire::Languages "none";
CONF
apt-get -c "$apt/apt.conf" update -qq

found=()
for version in "$@"; do
    if [ -n "$(apt-cache -c "$apt/apt.conf" search --names-only "^python${version//./\\.}\$")" ]; then
        found+=("$version")
    else
        echo "NOT INSTALLED: Python $version (Debian $suite does not have it)"
    fi
done
[ ${#found[@]} -gt 0 ] || exit 0

packages=()
for version in "${found[@]}"; do
    packages+=("python$version" "python$version-dev" "python$version-venv" "libpython$version-testsuite")
done
apt-get -c "$apt/apt.conf" install -y -qq --download-only "${packages[@]}" >/dev/null
for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$root"
done

# They run on their own libc, by its own dynamic linker.
for version in "${found[@]}"; do
    python=$(readlink -f "$root/usr/bin/python$version")
    linker=$(basename "$(patchelf --print-interpreter "$python")")
    linker=$(find "$root/usr/lib" -name "$linker" -print -quit)
    libraries=$(dirname "$(find "$root/usr/lib" -name libc.so.6 -print -quit)")
    patchelf --set-interpreter "$linker" --force-rpath --set-rpath "$libraries" "$python"
    sed -i "s#/usr/share/python-wheels#$root/usr/share/python-wheels#g" \
        "$root/usr/lib/python$version"/_sysconfigdata_*.py
    "$root/usr/bin/python$version" -c 'import sys, ssl, sqlite3, _asyncio; print("Python", sys.version)'
done
