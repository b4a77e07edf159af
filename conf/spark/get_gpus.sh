#!/usr/bin/env bash
# Tells Spark which GPUs this machine (or container) has, in the form Spark asks for:
#   {"name": "gpu", "addresses": ["0", "1"]}
# Addresses are indices, the numbers torch uses for devices. No GPU, or no driver, is an error: an
# executor that was promised a GPU must not start without one.
set -euo pipefail
indices=$(nvidia-smi --query-gpu=index --format=csv,noheader)
[ -n "${indices}" ] || {
    echo "get_gpus.sh: nvidia-smi names no GPU" >&2
    exit 1
}
printf '{"name": "gpu", "addresses": [%s]}\n' \
    "$(sed 's/[^0-9]//g; s/.*/"&"/' <<<"${indices}" | paste -sd, -)"
