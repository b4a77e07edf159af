#!/usr/bin/env bash
# Builds the wheel, the sdist, and the wheel once more under a name that spark-submit's --py-files
# takes (.zip; it refuses .whl). Usage: build.sh [OUTPUT_FOLDER]; default: dist.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-dist}
python=${PYTHON:-.venv/bin/python}

# setuptools copies into build/ and packs whatever lies there, removed modules included.
rm -rf build "${output}"/mumic_spark-*
log=$(mktemp "${TMPDIR:-/tmp}/build-XXXXXX")
trap 'rm -rf build "${log}"' EXIT
"${python}" -m build --no-isolation --wheel --sdist --outdir "${output}" . >"${log}" 2>&1 || {
    cat "${log}" >&2
    exit 1
}
for wheel in "${output}"/*.whl; do
    cp "${wheel}" "${wheel%-py3-none-any.whl}-pyfiles.zip"
done
ls "${output}"/mumic_spark-*
