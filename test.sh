#!/usr/bin/env bash
# Install what the tests need, then check the code and run every test. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./setup.sh test
PATH=$PWD/.venv/bin:$PATH
export PATH

ruff check .
ruff format --check .
mypy
lint-imports
python -m riafs.cli.manpages --check man
pytest "$@"
