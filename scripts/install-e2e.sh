#!/usr/bin/env bash
# Installs what the end-to-end tests run against, as pinned in e2e/: npm packages into
# e2e/node_modules, PyPI packages into e2e/.venv; as root also what is missing of Debian's packages.
# Does nothing when all is there as the pins say. Fails when a part is missing or does not run.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../e2e"
python=${PYTHON:-python3}

# fingerprint FILE...: changes with the pins and with the interpreters that the parts are built for
fingerprint() {
  { node --version; "$python" --version; cat -- "$@"; } | sha256sum | cut -d' ' -f1
}

# fresh STAMP VALUE: whether the part was installed for just this fingerprint
fresh() {
  [[ -f $1 && $(<"$1") == "$2" ]]
}

# What comes from Debian. As another user than root it must be there already.
missing() {
  type -P mkfs.ext4 >/dev/null || echo e2fsprogs
  type -P mount >/dev/null || echo mount
  type -P kill >/dev/null || echo procps
  type -P node >/dev/null || echo nodejs
  type -P npm >/dev/null || echo npm
  "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  [[ -n ${CHROMIUM:-$(type -P chromium chromium-browser google-chrome)} ]] || echo chromium
}
mapfile -t packages < <(missing)
if ((${#packages[@]})) && [[ $(id -u) == 0 ]]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  mapfile -t packages < <(missing)
fi
if ((${#packages[@]})); then
  echo "install-e2e: missing, and installed only as root: ${packages[*]}" >&2
  exit 1
fi

npm_pins=$(fingerprint package.json package-lock.json .npmrc)
if ! fresh node_modules/.installed "$npm_pins"; then
  # Engine warnings are expected: bundler plugins that `agents` names want a newer Node.
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  node check-parts.mjs
  echo "$npm_pins" >node_modules/.installed
fi

pip_pins=$(fingerprint requirements.txt)
if ! fresh .venv/.installed "$pip_pins"; then
  rm -rf .venv
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
  .venv/bin/python -m pip --disable-pip-version-check check >/dev/null
  .venv/bin/python -B py/imports.py
  echo "$pip_pins" >.venv/.installed
fi
