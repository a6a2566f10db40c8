# Two commands do all the set-up: `make demo` and `make test`.
VENV   ?= .venv
PYTHON ?= python3
GAME   ?= Pong
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready

# Where it is set, each of the many processes of the tests would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow check wheel oldest python clean

demo: $(READY)
	$(BIN)/glam demo $(GAME)

# A file's tests share fixtures: they run on one core, in order. Files run side by side.
SIDE_BY_SIDE = -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow" --durations 40

# What `make test` leaves out: most scripts of benchmarks/, weights that no shipped game has, and
# more cases of hostile files.
slow: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow
	GLAM_FUZZ_CASES=2000 $(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/test_fuzz_files.py \
	  tests/test_snapshots_hostile.py

# Style, types, and the direction of imports.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Builds the wheel, installs it without extras in an empty environment, and uses it elsewhere. What
# it requires is linked from the venv, so the venv's Python has to run this.
wheel: $(READY)
	$(BIN)/python tests/wheel_check.py

# The contract of the envs, on the oldest Gymnasium that pyproject.toml allows. It makes no
# difference between NumPy and torch, or between frames, gray frames and latents.
OLDEST = $(shell sed -n 's/.*"gymnasium>=\(.*\)".*/\1/p' pyproject.toml)
oldest: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/oldest gymnasium==$(OLDEST)
	PYTHONPATH=build/oldest $(BIN)/python -c \
	  "import gymnasium; assert gymnasium.__version__ == '$(OLDEST)', gymnasium.__version__"
	PYTHONPATH=build/oldest $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not one_gymnasium" \
	  -k "not torch and not grayscale and not latent" \
	  tests/contract tests/test_wrappers.py tests/test_env_lifetime.py tests/test_habits.py

# The fast part of the tests on another Python, `make python PYTHON=python3.13`, in a venv of its own
# without the libraries of the examples.
OTHER = build/$(notdir $(PYTHON))
FAST  = tests/contract $(addprefix tests/test_, $(addsuffix .py, \
  env_lifetime wrappers habits atari import model_config world_model checkpoints \
  reward_values inference cli console sweep))
python: $(OTHER)/.ready
	$(OTHER)/bin/python -m pytest $(SIDE_BY_SIDE) $(FAST)

$(OTHER)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" \
	  einops hypothesis pytest pytest-xdist
	touch $@

# The constraints pin torch: the install is the same today and next month. pip would compile all
# modules, a minute and a half of a core; Python compiles the few that are used, once. Of mamba-ssm
# the tests need the Python sources alone; a build with its CUDA kernels, where there is one, is left
# in place.
MAMBA = mamba-ssm==2.3.2.post1
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -c "import importlib.util as u; raise SystemExit(not u.find_spec('mamba_ssm'))" || \
	  MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(BIN)/python -m pip install --quiet \
	  --no-compile --no-cache-dir --no-deps --no-build-isolation $(MAMBA)
	touch $(READY)

clean:
	rm -rf $(VENV) build dist
