#!/bin/sh
# Runs the suite with the oldest and the newest torch that bnfx supports, and one between them, each
# in an environment of its own, .venv-torch-VERSION. A torch of PyPI is 5 to 7 GB on disk.
#
#   sh tests/torch_versions.sh MARKS [PATH...]
#
# MARKS: which tests, as for pytest -m; PATH: all, unless given. TORCHES: "torch:torchvision" of
# other versions. PYTHON: by which environments are made.
set -u
marks=$1
shift
failed=
for pair in ${TORCHES:-2.11.0:0.26.0 2.14.1:0.29.1 2.15.0:0.29.2}; do
  version=${pair%%:*}
  venv=.venv-torch-$version
  if [ ! -e "$venv/.installed" ]; then
    "${PYTHON:-python3}" -m venv "$venv" &&
      "$venv/bin/python" -m pip install --quiet "torch==$version" "torchvision==${pair##*:}" \
        --editable '.[test-tools]' &&
      touch "$venv/.installed" || { failed="$failed $version(not installed)"; continue; }
  fi
  echo "*** torch $version"
  "$venv/bin/python" -m pytest -n 2 --dist worksteal -m "$marks" "$@" || failed="$failed $version"
done
if [ -n "$failed" ]; then
  echo "*** failed:$failed"
  exit 1
fi
