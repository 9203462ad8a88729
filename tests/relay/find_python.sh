#!/bin/sh
# Prints the path of a Python 3.10, the newest that a TVM with Relay has wheels for.
# Looks on PATH, in pyenv, and asks uv (which may download one). Fails where there is none.
is_wanted() {
    "$1" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1
}
for candidate in python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10*/bin/python; do
    if is_wanted "$candidate"; then
        command -v "$candidate"
        exit 0
    fi
done
if command -v uv >/dev/null 2>&1; then
    uv python find 3.10 2>/dev/null && exit 0
    uv python install --quiet 3.10 >&2 && uv python find 3.10 && exit 0
fi
exit 1
