#!/bin/sh
# Unpacks Debian's GoogleTest into .deps where none is installed: that needs no root rights, and nothing outside this folder
# changes. Where there is no apt, CMake fetches the release archive instead.
set -eu
cd "$(dirname "$0")/.."
if [ -e /usr/include/gtest/gtest.h ] || [ -e .deps/usr/include/gtest/gtest.h ] || ! command -v apt-get >/dev/null; then
  exit 0
fi
mkdir -p .deps/packages
cd .deps/packages
if ! apt-get download libgtest-dev >/dev/null 2>&1; then
  # A fresh image may have no package lists, and only root can get them.
  if [ "$(id -u)" != 0 ] || ! apt-get update -qq || ! apt-get download libgtest-dev >/dev/null 2>&1; then
    echo "get_gtest.sh: apt-get could not download libgtest-dev; CMake will try the release archive" >&2
    exit 0
  fi
fi
for package in *.deb; do dpkg-deb -x "$package" ..; done
