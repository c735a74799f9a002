"""What programs that we start have of our environment: what they need, and none of our keys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

FURTHER = "DLGFORGE_CHILD_ENV"
"""Names, or patterns like AWS_*, of further variables that children are given."""

PROGRAM = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM"),
    *("TMPDIR", "TEMP", "TMP", "XDG_*", "SYSTEMROOT"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "PYTHON*", "VIRTUAL_ENV", "MALLOC_*"),
    *("OMP_*", "MKL_*", "OPENBLAS_*", "GOMP_*", "KMP_*", "GGML_*", "LLAMA_*"),
)
"""Variables of every program: where things are, in which language, and how it uses the machine."""

ACCELERATORS = (
    *("CUDA_*", "NVIDIA_*", "NCCL_*", "NVTE_*", "CUBLAS_*", "CUDNN_*", "FLASHINFER_*"),
    *("ROCM_*", "ROCR_*", "HIP_*", "HSA_*", "AMD_*", "GPU_*", "XPU_*", "ZE_*", "ONEAPI_*", "CCL_*", "FI_*"),
    *("TPU_*", "XLA_*", "PJRT_*", "NEURON_*"),
)
"""Variables of GPUs and their like."""

NETWORK = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
"""Proxies and certificates."""

MODEL_SERVER = (
    *PROGRAM,
    *ACCELERATORS,
    *NETWORK,
    *("VLLM_*", "TORCH*", "PYTORCH_*", "TRITON_*", "GLOO_*", "UCX_*"),
    *("HF_*", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_*", "TRANSFORMERS_*", "TOKENIZERS_*", "SAFETENSORS_*"),
    *("DO_NOT_TRACK", "MODELSCOPE_*"),
)
"""Variables of a server that loads a model by itself: accelerators, the model hub and its token, proxies."""


RAY = (
    *PROGRAM,
    *ACCELERATORS,
    *NETWORK,
    *("RAY_*", "GRPC_*", "grpc_proxy", "no_grpc_proxy"),
    *("PG*", FURTHER),
)
"""Variables of a Ray cluster whose workers call endpoints: Ray's own, and what libpq reads beside a DSN. The
keys of endpoints come to the workers in a call.
"""


def child_environment(wanted: Iterable[str] = PROGRAM, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the part of `env` that a child gets: names and patterns `wanted`, and DLGFORGE_CHILD_ENV's."""
    further = [item.strip() for item in env.get(FURTHER, "").split(",") if item.strip()]
    patterns = [*wanted, *further]
    return {
        name: value for name, value in env.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
