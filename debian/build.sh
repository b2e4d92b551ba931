#!/bin/sh
# Build the package from the tracked files: build.sh PIP OUTPUT [ARCHITECTURE].
#
# dpkg-buildpackage writes beside and into its sources, so it works on a copy in OUTPUT/deb-build. OUTPUT then has the .deb.
# Downloaded wheels stay in build/wheels of the checkout: a later build needs no network. All files have the time of the
# last commit, so that two builds are equal.
set -eu
umask 022
pip=$1 output=$2 architecture=${3:-$(dpkg --print-architecture)}
checkout=$(cd "$(dirname "$0")/.." && pwd)
wheels=$checkout/build/wheels/$architecture
tracked() { git -c safe.directory="$checkout" -C "$checkout" "$@"; }

case $architecture in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) echo "build.sh: there are no wheels for $architecture in debian/wheels.txt" >&2; exit 1 ;;
esac
fetch() {
    "$pip" download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
        --platform "manylinux2014_$machine" --python-version "$python" --dest "$wheels" \
        --requirement "$checkout/debian/wheels.txt" "$@"
}
mkdir -p "$wheels" "$output"
output=$(cd "$output" && pwd)
for python in 3.11 3.13; do
    # pip takes the wheels of an earlier build, or downloads all.
    fetch --no-index --find-links "$wheels" 2>/dev/null || fetch
done

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(tracked log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
rm -rf "$output/deb-build"
mkdir -p "$output/deb-build/source/wheels"
(cd "$checkout" && tracked ls-files -z CHANGELOG.md LICENSE README.md debian pyproject.toml runbooks src |
    tar --create --mtime="@$SOURCE_DATE_EPOCH" --null --files-from=-) | tar --extract --directory "$output/deb-build/source"
# Only the files that the hashes name: an earlier version may be in the folder too.
(cd "$wheels" && sha256sum -- *.whl) | while read -r hash name; do
    if grep -q "$hash" "$checkout/debian/wheels.txt"; then cp "$wheels/$name" "$output/deb-build/source/wheels"; fi
done

cd "$output/deb-build/source"
# Nothing is compiled, so that another architecture needs no compiler of its own.
if [ "$architecture" = "$(dpkg --print-architecture)" ]; then set --; else set -- --no-check-builddeps; fi
dpkg-buildpackage --build=binary --no-sign --host-arch="$architecture" "$@" >../log 2>&1 || { cat ../log >&2; exit 1; }
mv ../*.deb ../..
cd /
rm -rf "$output/deb-build"
