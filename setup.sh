#!/usr/bin/env bash
# Install what riafs needs on Debian 12 and make .venv in this checkout. Quick when there is nothing to do.
#   ./setup.sh demo      riafs, DataLad and git-annex
#   ./setup.sh test      the same and everything the tests use
# As root, or as a user who may use sudo (only asked for where a Debian package is missing).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case "${1-}" in
  demo) requirements=(-e . 'datalad>=1.2' 'git-annex>=10.20250630') ;;
  test) requirements=(-e '.[test]') ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 1 ;;
esac

if [ "$(id -u)" = 0 ]; then as_root=(env); else as_root=(sudo env); fi

apt() {
  "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

missing=()

# want PACKAGE PROBE…: the Debian package is missing unless the probe succeeds, whoever installed what it looks for.
want() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

want python3 python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'
want python3-venv python3 -c 'import venv, ensurepip'
want python3-dev python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
want git command -v git
want gcc command -v gcc
want libc6-dev test -e /usr/include/stdio.h
want pkg-config command -v pkg-config
want libfuse3-dev pkg-config --exists fuse3
want fuse3 command -v fusermount3
want libarchive13 python3 -c 'import ctypes; ctypes.CDLL("libarchive.so.13")'
want p7zip-full command -v 7z
want gnupg command -v gpg
want attr command -v getfattr
want file command -v file
want procps command -v ps
want netbase test -e /etc/protocols # git-annex downloads nothing without it
if [ "$1" = test ]; then
  want openssh-client command -v ssh
  want openssh-sftp-server test -x /usr/lib/openssh/sftp-server
  want stress-ng command -v stress-ng
  want restic command -v restic
  want borgbackup command -v borg
  want openssh-server test -x /usr/sbin/sshd
  want nginx test -x /usr/sbin/nginx
  want apache2-bin test -x /usr/sbin/apache2 # without apache2 nothing starts it
  want openssl command -v openssl
fi

# Debian starts servers that it installs, now and at every boot; the tests start their own.
policy=/usr/sbin/policy-rc.d
forbid_servers() {
  [ ! -e $policy ] || return 0
  trap '"${as_root[@]}" rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
  "${as_root[@]}" chmod 755 $policy
}
disable_servers() {
  [[ " ${missing[*]} " != *" openssh-server "* ]] || "${as_root[@]}" update-rc.d ssh disable
  [[ " ${missing[*]} " != *" nginx "* ]] || "${as_root[@]}" update-rc.d nginx disable
}

if [ ${#missing[@]} -gt 0 ]; then
  echo "installing Debian packages: ${missing[*]}"
  [ "$1" != test ] || forbid_servers
  apt update
  apt install --no-install-recommends "${missing[@]}"
  disable_servers
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "riafs needs Python 3.11 or newer, python3 is $(python3 --version) at $(command -v python3)" >&2
  exit 1
}

interpreter="$(python3 -c 'import sys; print(sys.version, sys.base_prefix)') in $PWD"
state=$( (echo "$interpreter"; cat pyproject.toml setup.sh) | sha256sum | cut -d ' ' -f 1)
mkdir -p .venv
exec 9>.venv/.lock
flock 9
if [ "$(cat .venv/.interpreter 2>/dev/null)" != "$interpreter" ] || [ ! -x .venv/bin/python ]; then
  rm -rf .venv/bin .venv/lib .venv/lib64 .venv/include .venv/.installed-*
  python3 -m venv .venv
  echo "$interpreter" >.venv/.interpreter
fi
if [ "$(cat ".venv/.installed-$1" 2>/dev/null)" != "$state" ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "${requirements[@]}" </dev/null
  echo "$state" >".venv/.installed-$1"
fi
