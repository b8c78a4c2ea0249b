#!/usr/bin/env bash
# Installs Debian's C compilers for ARM and qemu, by which tests/test_export_c.py runs exported models on an emulated
# ARM processor, where they are missing and we may: as root with apt. Elsewhere it says so and does nothing; the test is
# then skipped.
set -euo pipefail

packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user"

found=yes
for name in aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc; do
    command -v "$name" > /dev/null || found=no
done
for name in aarch64 arm; do
    command -v "qemu-$name" > /dev/null || command -v "qemu-$name-static" > /dev/null || found=no
done
if [ $found = yes ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "no ARM compilers or no qemu: the ARM test is skipped (on Debian or Ubuntu: apt install $packages)" >&2
    exit 0
fi
echo "Installing C compilers for ARM and qemu for the C export's test"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of names
apt-get install -y -qq --no-install-recommends $packages > /dev/null
