#!/usr/bin/env bash
# Installs what the end-to-end tests run against, as pinned in e2e/: npm packages into
# e2e/node_modules, PyPI packages into e2e/.venv; as root also Debian's chromium. Does nothing when both are already what the pins
# say. Fails when a part is missing or does not run.
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

for tool in node npm "$python" sha256sum; do
  command -v "$tool" >/dev/null || { echo "install-e2e: $tool is needed" >&2; exit 1; }
done

npm_pins=$(fingerprint package.json package-lock.json .npmrc)
if ! fresh node_modules/.installed "$npm_pins"; then
  # Engine warnings are expected: bundler plugins that `agents` names want a newer Node.
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  node check-parts.mjs
  echo "$npm_pins" >node_modules/.installed
fi

# The browser comes from Debian; as another user than root it must be there already.
if ! command -v chromium >/dev/null && [[ $(id -u) == 0 ]]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
command -v chromium >/dev/null || echo "install-e2e: no chromium: the console's tests need it" >&2

pip_pins=$(fingerprint requirements.txt)
if ! fresh .venv/.installed "$pip_pins"; then
  rm -rf .venv
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
  .venv/bin/python -m pip --disable-pip-version-check check >/dev/null
  .venv/bin/python -B py/imports.py
  echo "$pip_pins" >.venv/.installed
fi
