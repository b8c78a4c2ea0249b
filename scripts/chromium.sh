#!/usr/bin/env bash
# Installs Debian's chromium, which tests/test_report_browser.py opens pages in, where there is none and we may: as root
# with apt. Elsewhere it says so and does nothing; the test is then skipped.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" > /dev/null; then exit 0; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "no chromium: the browser test is skipped (on Debian or Ubuntu: apt install chromium)" >&2
    exit 0
fi
echo "Installing chromium for the browser test"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium > /dev/null
