#!/usr/bin/env bash
# Install riafs in this checkout, make a small DataLad store, mount it, look at it, and leave it mounted.
# Each run makes its own new directory and leaves those of earlier runs alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
checkout=$PWD
./setup.sh demo
PATH=$checkout/.venv/bin:$PATH
unset "${!GIT_@}"

work=$(mktemp -d "${TMPDIR:-/tmp}/riafs-demo.XXXXXX")
store=$work/store
mountpoint=$work/mnt
mkdir "$work/home" "$mountpoint"
cat >"$work/home/.gitconfig" <<'CONFIG'
[user]
  name = riafs demo
  email = demo@riafs.invalid
[init]
  defaultBranch = main
CONFIG

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# The tools that make the store see a home of their own; riafs itself sees the user's.
demo() {
  HOME=$work/home DATALAD_LOG_LEVEL=error DATALAD_UI_PROGRESSBAR=none "$@" </dev/null >>"$work/log" 2>&1 || {
    echo "demo.sh: '$*' failed, the end of $work/log is:" >&2
    tail -n 20 "$work/log" >&2
    exit 1
  }
}

make_dataset() {
  demo datalad create "$work/study"
  cd "$work/study"
  demo datalad create -d . inputs/scans
  head -c 3000000 /dev/urandom >inputs/scans/t1.nii.gz
  head -c 1000000 /dev/urandom >result.dat
  seq 20000 >table.csv
  demo datalad save -r -m 'First results'
  demo git tag -m 'First release' v1.0
}

publish() {
  demo datalad create-sibling-ria -r -s store --alias study --new-store-ok "ria+file://$store"
  demo datalad push -r --to store
  demo git push store v1.0
}

second_version() {
  demo git rm -q table.csv
  seq 30000 >corrected.csv
  demo datalad save -m 'A corrected table'
  demo datalad push --to store
}

# Put the content into a 7z archive and delete a loose copy, as sites do to save inodes.
archive() {
  local dataset
  dataset=$(readlink -f "$store/alias/study")
  demo datalad export-archive-ora "$dataset/archives/archive.7z"
  find "$dataset/annex/objects" -name '*.dat' -type f -delete
}

step "Making a store with DataLad in $store"
make_dataset
publish
second_version
archive
cd "$checkout"
find "$store" -maxdepth 2 -not -path '*/error_logs*' | sort | sed 's/^/  /'

step "riafs mount $store $mountpoint"
riafs mount "$store" "$mountpoint"

step "ls -lR $mountpoint/study"
ls -lR "$mountpoint/study"

step "ls -l $mountpoint/study@v1.0"
ls -l "$mountpoint/study@v1.0"

step 'Copying files out of the mount and comparing them with the originals'
compare() {
  cp "$mountpoint/$1" "$work/copy"
  cmp "$work/copy" "$work/study/$2"
  echo "  same: $1 ($(stat -c %s "$work/copy") bytes)"
  rm "$work/copy"
}
compare study/corrected.csv corrected.csv
compare study/result.dat result.dat
compare study/inputs/scans/t1.nii.gz inputs/scans/t1.nii.gz
cp "$mountpoint/study@v1.0/table.csv" "$work/copy"
seq 20000 | cmp - "$work/copy"
rm "$work/copy"
echo "  same: study@v1.0/table.csv"

step 'The store stays mounted. Look around:'
echo "  $mountpoint/study"
echo
echo 'To unmount it:'
echo "  $checkout/.venv/bin/riafs umount $mountpoint"
