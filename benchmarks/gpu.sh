#!/usr/bin/env bash
# On a machine with a GPU: the tests that need one, then CPU against GPU for encoder, index and trainer.
#
#   make install && benchmarks/gpu.sh [--data DIR] [--rows 5000] [--model FOLDER]
#
# Takes a few minutes; most of them are the CPU's share. The last line is one JSON object; exit code 1: a check failed.
# The index runs on the GPU where faiss has one: pip install faiss-gpu-cu12 (or faiss-cuda) instead of faiss-cpu.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
command -v "$PYTHON" > /dev/null || PYTHON=python3

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "benchmarks/gpu.sh needs a GPU that torch sees; got none. python -m benchmarks.gpu tries the code on a CPU." >&2
  exit 2
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
"$PYTHON" -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'

"$PYTHON" -m pytest -q -m gpu tests
"$PYTHON" -m benchmarks.transport_gpu  # 10,000,000 x 10,000 x 384; 16 GB of host memory and 8 of the GPU's
"$PYTHON" -m benchmarks.context_gpu  # a 1B-shaped model, conversations of up to 8,192 tokens
"$PYTHON" -m benchmarks.gpu "$@"
