# make demo: from nothing to a trained, evaluated, usable classifier. make help lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo setup peers test test-all results docs fuzz lint clean
.PHONY: bench-analysis bench-data bench-evaluation bench-gpu bench-inference bench-plan bench-small-sets
.PHONY: bench-train bench-visualization

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

$(VENV)/core: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(VENV)/all: $(VENV)/core
	@$(PIP) --editable '.[boxes,sets,hf,onnx,openvino,tensorboard,dev]'
	@touch $@

# What ours is tested against. The wheels of the networks have no operators for a CPU build of torch, so only the
# tests and benchmarks may import them.
.peers/installed: constraints.txt
	@$(PIP) --no-deps --upgrade --target .peers torchvision timm pytorchcv \
		torchmetrics lightning-utilities pycocotools
	@touch $@

peers: $(VENV)/core .peers/installed ## install what the tests and benchmarks compare with, torchvision and timm among it

setup: $(VENV)/all ## install the project in editable form, with all extras, into .venv

demo: $(VENV)/core ## train, evaluate and use two landmark networks on real images
	$(BIN)/convatlas train lenet5 --data fashion-mnist --out runs/demo-lenet5
	$(BIN)/convatlas train resnet20_cifar --data fashion-mnist --out runs/demo-resnet20
	$(BIN)/convatlas eval runs/demo-resnet20
	$(BIN)/python examples/save_images.py runs/demo-images
	$(BIN)/convatlas predict runs/demo-resnet20 runs/demo-images/*.png --top 3
	@echo "report: $(CURDIR)/runs/demo-resnet20/report.md"

test: setup peers ## run the tests, in a few minutes
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: setup peers ## run all tests, including the slow ones
	$(BIN)/python -m pytest -n $(WORKERS) -m "not alone"
	$(BIN)/python -m pytest -m alone

results: setup ## run the long measurements, written to docs/generated (resumable)
	$(BIN)/python docs/results.py
	$(BIN)/python docs/dense.py

docs: setup ## write the documentation's tables and images, from stored results
	$(BIN)/python docs/results.py --render
	$(BIN)/python docs/dense.py --render
	$(BIN)/python docs/networks.py
	$(BIN)/python docs/recipes.py
	$(BIN)/python docs/notes.py
	$(BIN)/python docs/evaluation.py --render
	$(BIN)/python docs/small_sets.py --render
	$(BIN)/convatlas show inception_v3 --png docs/generated/inception_v3.png
	$(BIN)/convatlas show googlenet --svg docs/generated/googlenet.svg
	$(BIN)/convatlas show resnet50 --svg docs/generated/resnet50.svg

.peers/counters: constraints.txt
	@$(PIP) --no-deps --upgrade --target .peers torchinfo fvcore iopath yacs termcolor tabulate portalocker \
		tqdm pyyaml
	@touch $@

bench-analysis: setup .peers/counters ## how fast a network is analysed, beside torchinfo and fvcore
	$(BIN)/python docs/analysis_speed.py

bench-inference: setup peers ## how fast images are classified, beside torchvision and OpenVINO called by hand
	$(BIN)/python docs/inference_speed.py

bench-train: setup peers ## how fast a training step is, beside torchvision's loop (half an hour, resumable)
	$(BIN)/python docs/training_speed.py

bench-plan: setup ## plans of two runs, and estimates beside real trainings (five minutes)
	$(BIN)/python docs/plan.py

bench-gpu: setup peers ## training and inference on a CUDA device, beside timm (resumable)
	$(BIN)/python docs/gpu_speed.py

bench-data: setup peers ## how fast photographs are loaded, beside torchvision and timm
	$(BIN)/python docs/data_speed.py

bench-evaluation: setup ## accuracy by crops and ensembles of a small model (resumable)
	$(BIN)/python docs/evaluation.py

bench-visualization: setup ## how much of a small network's Grad-CAM lies on the object
	$(BIN)/python docs/visualization.py

bench-small-sets: setup ## the recipe quick on small and uneven sets, beside a plain loop (hours, resumable)
	OMP_NUM_THREADS=1 $(BIN)/python docs/small_sets.py

fuzz: setup ## read 10,000 hostile model files and images: none may crash, hang or take much memory
	cd tests && ../$(BIN)/python -m helpers.fuzz_campaign

lint: setup ## run the formatter check, the linter and the type checker
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean: ## remove the environment and the caches, keep the runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
