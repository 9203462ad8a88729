#!/bin/sh
# Prints the path of a Python 3.10, the newest that a TVM with Relay has wheels for.
# Looks on PATH, in pyenv, beside python3, and asks uv (which may download one). Fails where there
# is none.
is_wanted() {
    "$1" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1
}
try() {
    for candidate in "$@"; do
        if is_wanted "$candidate"; then
            command -v "$candidate"
            exit 0
        fi
    done
}
try python3.10
for root in "$PYENV_ROOT" "$HOME/.pyenv" "$(pyenv root 2>/dev/null)"; do
    try "$root"/versions/3.10*/bin/python
done
try "$(python3 -c 'import sys; print(sys.base_prefix)' 2>/dev/null)"/../3.10*/bin/python
if command -v uv >/dev/null 2>&1; then
    uv python find 3.10 2>/dev/null && exit 0
    uv python install --quiet 3.10 >&2 && uv python find 3.10 && exit 0
fi
exit 1
