# Targets say what to run; what they do is in contract/, client/, worker/, deploy/ and tools/.
PYTHON ?= python3
BIN := .venv/bin
SITE ?= local
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Physicist
.PHONY: install demo
install: ## Create .venv with all distributions
	@$(PYTHON) tools/setup_env.py run

demo: install ## Fit the bundled example pallet on this machine and draw its contour
	@$(BIN)/fitserve run example --output demo-run --refit
	@$(BIN)/fitserve contour demo-run --output demo-run/contour.png

##@ Developer
# Tests that need more than this checkout and time; each has a target of its own.
ELSEWHERE := published or root or slow or browser or endpoint or globus or containers or schedulers or deploy or kubernetes or cuda
# For root, a network whose ports nobody else has; what is fetched must be there before.
OWN_NETWORK := $(if $(filter 0,$(shell id -u)),unshare --net sh -c 'ip link set lo up && exec "$$@"' --)
# A release for this machine, with the wheels that hosts of such a network cannot fetch.
BUNDLE = $(SITEKIT) bundle --python "$$($(BIN)/python -c 'import platform as p; print(p.python_version())')" \
	--machine "$$(uname -m)" > /dev/null
.PHONY: dev test test-root root-venv test-endpoint test-globus test-published test-published-slow test-browser test-schedulers test-deploy test-deploy-slow test-kubernetes chart test-lowest test-slow lint types docs dist lock benchmark benchmark-signals tension gpu-check
dev: ## Create .venv with everything that tests, checks and docs need
	@$(PYTHON) tools/setup_env.py dev

# As many processes as cores; each has whole files, so that what a file shares is made once.
# They compile modules once too, whatever the environment says of that.
BESIDE := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
test: dev ## Run the fast tests: no root, no network, no other software
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -m "not ($(ELSEWHERE))" $(BESIDE) --durations=10

test-published: dev ## Compare fits of published analyses with their reference results
	@$(BIN)/python -m pytest -m "published and not slow" --durations=10

test-published-slow: dev ## The same where pyhf needs many minutes
	@$(BIN)/python -m pytest -m "published and slow"

root-venv: ## Install ROOT, 250 MB to fetch and 700 MB on disk, into .cache/root-venv
	@$(PYTHON) deploy/sitekit/tools/locked_venv.py root

test-root: dev root-venv ## Compare HistFactory models with ROOT itself
	@$(BIN)/python -m pytest -m "root"

test-browser: dev ## Open reports in a headless Chromium
	@$(BIN)/python -m pytest -m "browser"

test-endpoint: dev endpoint-venv ## Hold rendered sites against the real globus-compute-endpoint
	@$(BIN)/python -m pytest -m "endpoint"

test-globus: dev endpoint-venv ## Run the whole way through Globus Compute; needs Debian's rabbitmq-server
	@$(BIN)/python -m pytest -m "globus" --durations=10

test-schedulers: dev ## Run sites on real Slurm; needs root and Debian's slurm-wlm, see tests/rigs
	@$(BIN)/python -m pytest tests/schedulers -m "schedulers" --durations=10

test-deploy: dev endpoint-venv ansible-venv ansible-lint ## Deploy endpoints here and on the hosts of test-schedulers; needs root
	@$(BUNDLE)
	@$(OWN_NETWORK) $(BIN)/python -m pytest tests/deploy -m "deploy and not slow" --durations=10

test-deploy-slow: dev endpoint-venv ansible-venv ansible-lint ## The rest of it, an hour: faults, guides, PBS, images, a proxy; needs root
	@$(BUNDLE)
	@PYTHONPATH=tests/rigs:containers $(BIN)/python -m containerrig > /dev/null
	@$(OWN_NETWORK) $(BIN)/python -m pytest tests/deploy -m "deploy and slow" --durations=10

test-kubernetes: dev ## Run sites on a real Kubernetes, built once; needs root, see docs/kubernetes.md
	@bash tests/kubernetes/kuberig/build.sh
	@PYTHONPATH=tests/kubernetes $(BIN)/python -m kuberig
	@$(OWN_NETWORK) $(BIN)/python -m pytest tests/kubernetes -m "kubernetes" --durations=10

chart: dev ## Lint the Helm chart, and hold it against Kubernetes' schemas; fetches Helm
	@$(BIN)/python -m pytest tests/kubernetes/test_chart.py

# What others draw in is the newest: matplotlib's oldest release warns with a newer pyparsing.
# SciPy's warning is of its own rounding, until 1.16. Where iminuit finds a covariance, as it did until
# 2.31, no other optimizer is asked.
LOWEST := .cache/lowest-venv
LOWEST_AREAS := cli contour contract export pallet pictures plan report store worker kernel/test_fits.py
test-lowest: dev ## Run tests with the oldest dependencies that are declared; fetches them
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	@$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct -e contract -e "client[all]" -e worker
	@$(BIN)/uv pip install --quiet --python $(LOWEST) pytest pytest-timeout pytest-xdist hypothesis "pyparsing<3.3"
	@$(LOWEST)/bin/python -m pytest -m "not ($(ELSEWHERE))" $(BESIDE) \
	  -W "ignore:Values in x were outside bounds:RuntimeWarning" \
	  --deselect tests/worker/test_entry.py::test_where_minuit_finds_no_covariance_the_other_optimizer_answers \
	  $(addprefix tests/,$(LOWEST_AREAS))

test-slow: dev reinterpretation-venv ## Run the tests that take more than a minute
	@$(BIN)/python -m pytest -m "slow and not (published or deploy)"

benchmark: dev ## Measure the kernel beside pyhf and cabinetry, a quarter of an hour if idle
	@$(BIN)/python benchmarks/run.py $(ARGS)

benchmark-signals: dev ## Time thousands of own signals on a background; ARGS="PALLET --counts N"
	@$(BIN)/python benchmarks/signals.py $(ARGS)

tension: dev ## Judge the kernel on generated models, against the lowest of many minima; ARGS=--help
	@PYTHONPATH=tests/generated $(BIN)/python -m tension $(ARGS)

gpu-check: dev ## Check and time the kernel on the device that JAX has here
	@$(BIN)/python benchmarks/gpu_check.py $(ARGS)

lint: dev ## Check style and spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell

types: dev ## Check types
	@$(BIN)/mypy contract/src client/src worker/src deploy/sitekit containers/imagekit

docs: dev ## Build the documentation into site/
	@$(BIN)/mkdocs build --strict --quiet

dist: dev ## Build all distributions into dist/, as a release publishes them
	@rm -rf dist
	@$(BIN)/uv build --quiet --out-dir dist contract
	@$(BIN)/uv build --quiet --out-dir dist client
	@$(BIN)/uv build --quiet --out-dir dist worker

lock: dev ## Write the lock files anew, within their versions
	@$(BIN)/python tools/lock.py

##@ Images
IMAGEKIT := PYTHONPATH=containers:contract/src:client/src $(PYTHON) -m imagekit
TARGET ?= worker
ENGINE ?=
.PHONY: images sif image-check test-containers test-containers-cuda image-lint-venv
images: ## Build an image: make images TARGET=worker-cuda12 ENGINE=podman
	@$(IMAGEKIT) build $(TARGET) --engine "$(ENGINE)" $(ARGS)

sif: ## Make an Apptainer image of one that was built, in build/images
	@$(IMAGEKIT) sif $(TARGET) --engine "$(ENGINE)" $(ARGS)

image-check: ## Say what keeps this machine from building or running an image, and try it
	@$(IMAGEKIT) check $(TARGET) --engine "$(ENGINE)"

image-lint-venv: ## Install what checks the Dockerfile and the workflows into .cache
	@$(PYTHON) deploy/sitekit/tools/locked_venv.py image-lint

test-containers: dev image-lint-venv ## Build, lock down and run images; needs root, see docs/containers.md
	@$(BIN)/python -m pytest -m "containers" --durations=15

test-containers-cuda: dev ## Build the images for GPUs, 5 GB each, and try them without a GPU; needs root
	@$(BIN)/python -m pytest tests/containers -m "cuda" --durations=5

##@ Site admin
SITEKIT := PYTHONPATH=deploy $(BIN)/python -m sitekit
.PHONY: sites check render values doctor new-site golden golden-check endpoint-venv reinterpretation-venv ansible-venv ansible-lint
.PHONY: deploy status smoke upgrade rollback stop logs destroy
sites: install ## List the shipped sites
	@$(SITEKIT) list

check: install ## Check a site file: make check SITE=expanse
	@$(SITEKIT) check $(SITE)

render: install ## Render an endpoint's directory into build/sites/SITE
	@$(SITEKIT) render $(SITE) $(ARGS)

values: install ## Print the Helm values of a Kubernetes site
	@$(SITEKIT) cluster values $(SITE) $(ARGS)

doctor: install ## On the login node: say what is wrong before anything is registered
	@$(SITEKIT) doctor $(SITE) $(ARGS)

deploy: install ## Bring an endpoint up, here or on its login node: make deploy SITE=mine
	@$(SITEKIT) deploy $(SITE) $(ARGS)

status: install ## Say what an endpoint is doing and waits for; ARGS=--json
	@$(SITEKIT) status $(SITE) $(ARGS)

smoke: install ## Have a real fit done on a site, timed stage by stage
	@$(SITEKIT) smoke $(SITE) $(ARGS)

upgrade: install ## Let this version serve, once it has passed its trial
	@$(SITEKIT) upgrade $(SITE) $(ARGS)

rollback: install ## Let the version before serve again
	@$(SITEKIT) rollback $(SITE) $(ARGS)

stop: install ## Stop an endpoint with its workers and jobs
	@$(SITEKIT) stop $(SITE) $(ARGS)

logs: install ## Show the end of an endpoint's logs
	@$(SITEKIT) logs $(SITE) $(ARGS)

destroy: install ## Remove an endpoint and all that deploying made
	@$(SITEKIT) destroy $(SITE) $(ARGS)

new-site: install ## Write a site file: make new-site NAME=mine SCHEDULER=slurm
	@$(SITEKIT) new-site "$(NAME)" --scheduler $(or $(SCHEDULER),ask) $(ARGS)

golden: dev endpoint-venv ## Write what blueprints render to, and the study's sites, to be reviewed as a diff
	@$(SITEKIT) golden --submit

golden-check: dev ## Fail if a golden file would change
	@$(SITEKIT) golden --check

endpoint-venv: ## Install globus-compute-endpoint into .cache/endpoint-venv
	@$(PYTHON) deploy/sitekit/tools/locked_venv.py endpoint

reinterpretation-venv: ## Install SModelS and Spey into .cache/reinterpretation-venv
	@$(PYTHON) deploy/sitekit/tools/locked_venv.py reinterpretation

ansible-venv: ## Install Ansible into .cache/ansible-venv
	@$(PYTHON) deploy/sitekit/tools/locked_venv.py ansible

ansible-lint: ## Check the playbooks by ansible-lint's strictest profile
	@$(PYTHON) deploy/sitekit/tools/locked_venv.py ansible-lint
	@.cache/ansible-lint-venv/bin/ansible-lint --offline -q --profile production deploy/ansible
