#!/bin/sh
# Writes protos/gen from protos/podlane. The output is checked in; `make check-proto` demands that it is fresh.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
PATH="$(dirname "$python"):$PATH"
rm -rf protos/gen
mkdir -p protos/gen
"$python" -m grpc_tools.protoc -Iprotos \
    --python_out=protos/gen --grpc_python_out=protos/gen \
    --mypy_out=quiet:protos/gen --mypy_grpc_out=quiet:protos/gen \
    $(cd protos && find podlane -name '*.proto' | sort)
