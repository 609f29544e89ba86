#!/usr/bin/env bash
# Make .venv with pmemfs and its tools, and install the system packages that are missing.
# Usage: scripts/setup.sh [EXTRA...]   (extras of pyproject.toml, default: dev)
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${*:-dev}
PATH=$PATH:/usr/sbin:/sbin # ldconfig, for those who are not root

missing=()
command -v fusermount3 >/dev/null || missing+=(fuse3)
ldconfig -p 2>/dev/null | grep -q 'libfuse\.so\.2' || missing+=(libfuse2)
command -v fio >/dev/null || missing+=(fio)
command -v rsync >/dev/null || missing+=(rsync)
command -v git >/dev/null || missing+=(git)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "setup: installing ${missing[*]}"
    apt-get update -qq
    # libfuse2 is called libfuse2t64 where time_t is 64 bits everywhere
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null ||
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]/%libfuse2/libfuse2t64}" >/dev/null
  else
    echo "setup: these system packages are missing; install them and try again: ${missing[*]}" >&2
    echo "setup: on Debian and Ubuntu: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "setup: Python 3.11 or newer is needed, this is $(python3 --version)" >&2; exit 1; }
stamp=.venv/.setup-${extras// /-}
if [[ ! -e $stamp || pyproject.toml -nt $stamp ]]; then
  echo "setup: making .venv"
  [[ -x .venv/bin/python ]] || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[${extras// /,}]"
  touch "$stamp"
fi
# A start of pmemfs then compiles nothing, also where PYTHONDONTWRITEBYTECODE is set.
.venv/bin/python -m compileall -q pmemfs
