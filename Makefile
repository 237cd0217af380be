# `make demo` and `make test` do all set-up on a machine with Python 3.11-3.13 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test test-processors wheel app lint bench sbom clean

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; now = sys.version_info; sys.exit(None if (3, 11) <= now < (3, 14) else \
	    f"$(PYTHON) is Python {now[0]}.{now[1]}; name one of 3.11 to 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m deeplab.data.shapes runs/demo/data
	$(BIN)/python train.py --flagfile=configs/demo.flags
	$(BIN)/python eval.py --model_dir=runs/demo --tfrecord_dir=runs/demo/shards --split=val --output_dir=runs/demo/eval \
	    --report=runs/demo/eval
	@echo "scores:      runs/demo/eval/metrics.json"
	@echo "pictures:    runs/demo/eval/side_by_side/ (image | truth | prediction | errors)"
	@echo "report:      runs/demo/eval/report.html"
	@echo "TensorBoard: $(BIN)/tensorboard --logdir=runs"

# The fast tests first, then those that start whole programs; in two processes.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The tests whose values depend on kernels, under settings that stand for other processors; ten minutes.
KERNEL_TESTS := $(addprefix tests/test_,cpu_convolution.py folding.py golden.py normalization.py one_answer.py)
test-processors: $(INSTALLED)
	for each in TF_ENABLE_ONEDNN_OPTS=0 ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=SSE41; do \
	    echo "$$each" && env $$each $(BIN)/python -m pytest -n 2 $(KERNEL_TESTS) || exit 1; done

# VOC_DIR: real images for the input chain, else drawn ones. TORCH_PYTHON: a Python with torch, to compare with PyTorch.
BENCHES := input_pipeline losses step profile_step start_up evaluation preparation memory growth
bench: $(INSTALLED)
	for each in $(BENCHES); do TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python bench/speed/$$each.py || exit 1; done

# Installs the wheel in an empty environment and works with it there; a minute.
wheel: $(INSTALLED)
	.ci/wheel $(BIN)/python

# What is installed, for tools that look for known vulnerabilities: build/sbom.json (CycloneDX 1.6).
sbom: $(INSTALLED)
	$(PYTHON) -m venv build/cyclonedx
	build/cyclonedx/bin/python -m pip install --quiet cyclonedx-bom==7.5.0
	build/cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json \
	    $(BIN)/python

# Uses the page of deeplab.app in headless Chromium, where it can be installed.
app: $(INSTALLED)
	.ci/app $(BIN)/python

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
