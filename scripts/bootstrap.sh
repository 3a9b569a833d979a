#!/usr/bin/env bash
# Installs what the build needs: Debian/Ubuntu packages and a project-local Python environment with libtorch.
# Usage: scripts/bootstrap.sh [--system | --tests]
#   --system   stops after the Debian/Ubuntu packages, which are all that the presets without torch need
#   --tests    adds the oracles (diffusers, transformers), pytest and clang-format
# Runs in seconds when everything is there. Tried on Debian 12; Ubuntu 24.04 by the same script is untested.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(build-essential cmake ninja-build ccache mold pkg-config python3-venv python3-dev
  libavformat-dev libavcodec-dev libavutil-dev libswscale-dev libpng-dev
  libsentencepiece-dev libutf8proc-dev libcli11-dev libtomlplusplus-dev
  nlohmann-json3-dev libgtest-dev)

missing=()
for package in "${packages[@]}"; do
  if ! dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed; then
    missing+=("$package")
  fi
done

if [ ${#missing[@]} -gt 0 ]; then
  install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    echo "bootstrap: this system has no apt-get. Install the equivalents of: ${missing[*]}" >&2
    exit 1
  elif [ "$(id -u)" -eq 0 ]; then
    sh -c "export DEBIAN_FRONTEND=noninteractive; $install"
  elif sudo -n true 2>/dev/null; then
    sudo DEBIAN_FRONTEND=noninteractive sh -c "$install"
  else
    echo "bootstrap: packages are missing and this user may not install them. Run this, then try again:" >&2
    echo "  sudo sh -c '$install'" >&2
    exit 1
  fi
fi

if [ "${1:-}" = --system ]; then exit 0; fi

python=.venv/bin/python
[ -x "$python" ] || python3 -m venv .venv

# A stamp per requirements file, so that a second run asks no package index.
install_requirements() {
  local file=$1 stamp=.venv/.installed-$(basename "$1")
  if ! cmp -s "$file" "$stamp"; then
    "$python" -m pip install --disable-pip-version-check -q -r "$file"
    cp "$file" "$stamp"
  fi
}
install_requirements requirements/build.txt
if [ "${1:-}" = --tests ]; then install_requirements requirements/test.txt; fi
