#!/usr/bin/env bash
# The main job of pmemfs on a real mount, explained step by step. Needs root or fusermount3.
set -euo pipefail

work=$(mktemp -d "${TMPDIR:-/tmp}/pmemfs-demo.XXXXXX")
image=$work/demo.img
dir=$work/mnt
log=$work/daemon.log
tree=$(python -c 'import numpy, os; print(os.path.dirname(numpy.__file__))')
mkdir "$dir"

clean_up() {
  status=$?
  if mountpoint -q "$dir" 2>/dev/null; then pmemfs umount "$dir" || pmemfs umount --lazy "$dir"; fi
  if ((status)); then
    echo "demo: failed with status $status; the daemon's log ends with:" >&2
    tail -n 20 "$log" >&2 2>/dev/null || true
  fi
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*" && "$@"; }
count() { # the value of one key of inspect usage
  pmemfs inspect usage "$image" --json |
    python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}
expect() { # KEY OPERATOR NUMBER
  value=$(count "$1")
  [ "$value" "$2" "$3" ] || { echo "demo: $1 is $value, expected $2 $3" >&2; exit 1; }
}

step "Make an image: 4 GiB are promised, a few KiB are written."
run pmemfs mkfs "$image" --size 4G --label demo
run du -h "$image"

step "Mount it. The daemon stays in the background; descriptors are idle after 5 seconds here."
run pmemfs mount "$image" "$dir" -o idle=5 --log "$log"
run df -h "$dir"

step "Copy a real tree in (the installed numpy) and compare every byte."
run cp -a "$tree" "$dir/tree"
run diff -r --no-dereference "$tree" "$dir/tree"
echo "$(find "$dir/tree" -type f | wc -l) files, $(du -sh "$dir/tree" | cut -f1): the same."

step "Random 4 KiB reads and writes with fio, every block verified."
run fio --name=small --directory="$dir" --size=1M --nrfiles=8 --rw=randrw --bs=4k --direct=1 \
  --verify=crc32c --verify_state_save=0 --loops=2 --minimal --output="$work/fio.small"
echo "verified: 8 files in small extents."
run fio --name=large --directory="$dir" --size=64M --rw=randrw --bs=64k --direct=1 \
  --verify=crc32c --verify_state_save=0 --minimal --output="$work/fio.large"
echo "verified: a large file in whole extents."

step "While small files are worked on, their extents are split: page descriptors exist."
cat "$dir"/small.* >/dev/null
run pmemfs inspect usage "$image"
expect split_extents -gt 0
expect page_descriptors -gt 0

step "Nobody touches anything for the idle time: the page descriptors are gone."
for _ in $(seq 100); do [ "$(count split_extents)" = 0 ] && break; sleep 0.2; done
run pmemfs inspect usage "$image"
expect split_extents -eq 0
expect page_descriptors -eq 0

step "Where does a large file lie? In whole extents, a descriptor each."
run pmemfs inspect file "$image" /large.0.0

step "Unmount: returns when the image is closed. Check it."
run pmemfs umount "$dir"
run pmemfs fsck -n "$image"

step "Mount again and compare again."
run pmemfs mount "$image" "$dir" -o idle=5 --log "$log"
run diff -r --no-dereference "$tree" "$dir/tree"

step "Kill the daemon in the middle of a copy (SIGKILL). Nothing acknowledged is lost."
cp -a "$tree" "$dir/second" 2>/dev/null &
copier=$!
sleep 0.3
daemon=$(tail -n 1 "$log" | cut -d' ' -f3)
run kill -KILL "$daemon"
wait "$copier" || true
run pmemfs umount "$dir"
run pmemfs mount "$image" "$dir" -o idle=5 --log "$log"
run diff -r --no-dereference "$tree" "$dir/tree"
run pmemfs umount "$dir"
run pmemfs fsck -n "$image"

step "Done. README.md goes on from here."
