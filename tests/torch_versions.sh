#!/bin/sh
# Runs the suite with the oldest and the newest torch that bnfx supports, and one between them, each
# in an environment of its own, .venv-torch-VERSION. A torch of PyPI is 5 to 7 GB on disk.
#
#   sh tests/torch_versions.sh MARKS [PATH...]
#
# MARKS: which tests, as for pytest -m; PATH: folders and files of tests; all, unless given. Each is
# a run of its own, whose log and outcome are kept in .torch-versions/VERSION/COMMIT: what passed is
# not run again, so an interrupted run goes on where it was.
#
# TORCHES: "torch:torchvision" of other versions, or "torch:torchvision:FOLDER" of an environment
# that is there already. PYTHON: by which environments are made. JOBS: processes (2); for 1, no
# pytest-xdist is needed.
set -u
marks=$1
shift
test $# -gt 0 || set -- tests/*/ tests/test_*.py
here=$(pwd)
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
# What was not committed is not known by the commit's name.
test -z "$(git status --porcelain -uno 2>/dev/null)" || commit=$commit-changed-$(date +%s)
failed=
workers=
test "${JOBS:-2}" = 1 || workers="-n ${JOBS:-2} --dist worksteal"
for pair in ${TORCHES:-2.11.0:0.26.0 2.14.1:0.29.1 2.15.0:0.29.2}; do
  version=${pair%%:*}
  rest=${pair#*:}
  venv=.venv-torch-$version
  case $rest in
    *:*) venv=${rest#*:} ;;
    *)
      if [ ! -e "$venv/.installed" ]; then
        "${PYTHON:-python3}" -m venv "$venv" &&
          "$venv/bin/python" -m pip install --quiet "torch==$version" "torchvision==$rest" \
            --editable '.[test-tools]' &&
          touch "$venv/.installed" || { failed="$failed $version(not installed)"; continue; }
      fi
      ;;
  esac
  logs=.torch-versions/$version/$commit
  mkdir -p "$logs"
  for path in "$@"; do
    name=$(echo "${path%/}" | tr / .)
    if [ ! -e "$logs/$name.passed" ]; then
      PYTHONPATH=$here "$venv/bin/python" -m pytest -q $workers -p no:cacheprovider \
        -m "$marks" "$path" >"$logs/$name.log" 2>&1
      case $? in
        0 | 5) touch "$logs/$name.passed" ;; # 5: no test of that folder has such marks
        *) failed="$failed $version:$path" ;;
      esac
    fi
    echo "torch $version, $path: $(grep -E ' in [0-9.]+s' "$logs/$name.log" | tail -1)"
  done
done
if [ -n "$failed" ]; then
  echo "*** failed:$failed (logs in .torch-versions)"
  exit 1
fi
