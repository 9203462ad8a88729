#!/bin/sh
# Runs the tests of Relax that need no torch on each older TVM, in environments that take everything
# but TVM from the one whose Python is given.
set -e
python=$1
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for pair in 0.25.0.post1:0.1.12 0.26.0:0.1.13.post3; do
  tvm=${pair%%:*}
  venv=.venv-tvm-$tvm
  if [ ! -e "$venv/.installed" ]; then
    "$python" -m venv "$venv"
    # Looked up last, so that this environment's TVM comes first.
    echo "$packages" > "$("$venv/bin/python" -c \
      'import sysconfig; print(sysconfig.get_path("purelib"))')/everything_else.pth"
    "$venv/bin/python" -m pip install --quiet --no-deps "apache-tvm==$tvm" "apache-tvm-ffi==${pair##*:}"
    touch "$venv/.installed"
  fi
  echo "TVM $tvm"
  "$venv/bin/python" -m pytest -q tests/relax/test_battery.py tests/relax/test_refusals.py \
    tests/relax/test_build.py tests/relax/test_upstream.py
done
