# make help lists what there is. Everything runs in .venv, which scripts/setup.sh makes.
SHELL := /bin/bash
PY := .venv/bin/python
WORKERS ?= 3
SBIN ?= /sbin

.PHONY: help setup demo test test-slow crash crash-bugs replay torture mutants bench bench-fsck check format \
	clean install uninstall

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make .venv and install what is missing
	@scripts/setup.sh

demo: setup  ## Show the main things on a real mount, step by step
	@PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/demo.sh

test: setup  ## Run the tests (minutes; mounts included, through both front ends)
	$(PY) -m pytest -n $(WORKERS)
	PMEMFS_TEST_FRONTEND=fusepy $(PY) -m pytest -n $(WORKERS) tests/mount

test-slow: setup  ## Run also the tests that take longer
	$(PY) -m pytest -n $(WORKERS) -m "slow or not slow"

crash: setup  ## Crash all pairs of operations, then random ones; ARGS="--states 500000 --jobs 2"
	$(PY) tests/crash/crash_long.py $(ARGS)

crash-bugs: setup  ## Try all seeded bugs on the crash tests and print the score
	@$(PY) tests/crash/crash_bugs.py $(ARGS)

replay: setup  ## Bring one crash state back; ID=CASE@SAMPLES/STATE, as a failure printed it
	@PYTHONPATH=tests $(PY) tests/$(if $(filter fsck:%,$(ID)),fsck/fsck_replay.py,crash/crash_replay.py) '$(ID)'

bench: setup  ## Compare speed with other file systems; ARGS="--quick --png peers.png"
	$(PY) scripts/bench_peers.py $(ARGS)

bench-fsck: setup  ## Time fsck on a million files; ARGS="--files 100000 --seed 1"
	$(PY) scripts/bench_fsck.py $(ARGS)

torture: setup  ## Kill daemons in the midst of work and check all; ARGS="--rounds 100 --seed 1"
	PYTHONPATH=tests/mount $(PY) tests/torture/torture_run.py $(ARGS)

mutants: setup  ## Damage images, use each with everything; ARGS="--count 10000 --seed 1 --jobs 2"
	$(PY) tests/hostile/run_mutants.py $(ARGS)

check: setup  ## Check format, lint, types and layers
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m pmemfs.layout.document --check

install: setup  ## Let mount(8), mkfs(8) and fsck(8) find pmemfs (root)
	ln -sf $(CURDIR)/.venv/bin/{mount,mkfs,fsck}.pmemfs $(CURDIR)/.venv/bin/pmemfs $(SBIN)/

uninstall:  ## Undo make install
	rm -f $(SBIN)/{mount,mkfs,fsck}.pmemfs $(SBIN)/pmemfs

format:  ## Format the code and bring FORMAT.md up to date
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
	$(PY) -m pmemfs.layout.document

clean:  ## Remove .venv and caches
	rm -rf .venv .crash *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
