#!/usr/bin/env bash
# Install what the tests need, then check the code and run every test, in as many processes as there are processors, four
# at most. Arguments go to pytest, whose summary comes last: with -n 0 one test runs at a time, in this process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./setup.sh test
PATH=$PWD/.venv/bin:$PATH
export PATH

failed=()
check() { "$@" || failed+=("$*"); }

check ruff check .
check ruff format --check .
check mypy
check lint-imports
check python -m riafs.cli.manpages --check man
[ ${#failed[@]} = 0 ] || printf 'FAILED: %s\n' "${failed[@]}"

status=0
workers=$(nproc)
pytest -n $((workers < 4 ? workers : 4)) --dist worksteal "$@" || status=$?
[ ${#failed[@]} = 0 ] || status=1
exit $status
