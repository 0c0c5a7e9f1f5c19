PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One test process a CPU. Each begins with its own stretch of the tests, so that what they share is
# set up once; a process that is done takes some of another's.
PYTEST := $(BIN)/python -m pytest -n logical --dist worksteal

# What reads bytes from outside, and its tests.
READERS := rbe_cli/codec rbe_cli/weights rbe_cli/container rbe_cli/checkpoint
READER_TESTS := tests/codec tests/weights tests/container tests/checkpoint tests/attacks \
  tests/compression/test_decompress.py tests/cli/test_hub_files.py
# The share of the mutants that are tried, a random sample.
SHARE := 1
SEED := 0

.PHONY: demo test test-full ptx fuzz faults faults-libc coverage coverage-readers mutation lint format docs clean

# Install, compress the embedded checkpoint, look at the file, write text with it.
demo: $(INSTALLED)
	$(BIN)/rbe compress demo demo.rbe --force
	$(BIN)/rbe inspect demo.rbe
	$(BIN)/rbe generate demo.rbe "It was a dark night, and the old man" --seed 7

test: $(INSTALLED)
	$(PYTEST)

# The property tests with ten times as many examples, which are new each time.
test-full: $(INSTALLED)
	$(PYTEST) --hypothesis-profile full

# The kernels for CUDA, compiled without a GPU; it installs NVIDIA's compiler, 150 MB to download.
ptx: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[ptx]"
	$(BIN)/python -m tools.compile_ptx

# Mutated inputs of every kind, on all CPUs. docs/fuzzing.md says what is checked.
SECONDS ?= 60
fuzz: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS)

# Every call on a file made to fail in every way; docs/faults.md says what is checked.
faults: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python -m faults

# The same with calls of the C library, below Python. It needs gcc.
faults-libc: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python -m faults --libc

# The branches of the package that the tests take, file by file; htmlcov/index.html shows the lines.
coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report term --cov-report html

# Fails unless tests take every branch of what reads bytes from outside.
coverage-readers: $(INSTALLED)
	$(PYTEST) $(READER_TESTS) $(addprefix --cov=,$(READERS)) --cov-report term --cov-fail-under 100

# Changes the readers' code in one place at a time, and tells which changes no test notices. All of
# it takes hours; another run goes on where the last one ended.
mutation: $(INSTALLED)
	mkdir -p build
	COVERAGE_FILE=build/mutation.coverage $(BIN)/python -m pytest $(READER_TESTS) --cov \
	  --cov-context=test --cov-report=
	$(BIN)/python -m tools.mutation_testing --share $(SHARE) --seed $(SEED) \
	  --coverage build/mutation.coverage \
	  $(READERS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The command line's reference, and the site in build/site. It needs no network.
docs: $(INSTALLED)
	$(BIN)/python tools/make_cli_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "Installing, and compiling the kernels: about a minute"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) demo.rbe htmlcov .coverage
