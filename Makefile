# The two commands of this project: `make demo` and `make test`. CMake does the work (CMakePresets.json).
BUILD := build/release
JOBS ?= $(shell nproc)

.PHONY: demo test test-python test-slow gpu-check build format check-format install wheel clean

build:
	scripts/bootstrap.sh
	cmake --preset release -DFPSA_TESTS=OFF
	cmake --build $(BUILD) --target fpsa -j $(JOBS)

## A prompt becomes a video, dense and with FPSAttention: out/demo.mp4, out/demo.png, a table.
demo: build
	scripts/demo.sh

## Builds and runs every test but the slow ones.
test:
	scripts/bootstrap.sh --tests
	cmake --preset release -DFPSA_TESTS=ON
	cmake --build $(BUILD) -j $(JOBS)
	ctest --test-dir $(BUILD) --output-on-failure -LE slow -j $(JOBS)
	$(MAKE) test-python

## The Python tests on what is built: files share the processors (tests/conftest.py), but those that time something.
test-python:
	.venv/bin/python -m pytest tests -q -m "not slow and not alone" -n $(JOBS) --maxprocesses 8 --dist loadfile --durations 15
	.venv/bin/python -m pytest $$(grep -rl mark.alone tests --include='test_*.py') -q -m "alone and not slow"

## The real-size checks (Wan2.1-1.3B shapes with random weights): about 15 minutes, 10 GB of disk.
test-slow: test
	ctest --test-dir $(BUILD) --output-on-failure -L slow --no-tests=ignore
	.venv/bin/python -m pytest tests -q -s -m slow

## On a machine with an H100, H200 or H20: cases, sanitizers and figures, in under 10 minutes; out/gpu-check.{json,txt}.
gpu-check:
	python3 scripts/gpu_check.py

format:
	scripts/bootstrap.sh --tests
	git ls-files '*.cc' '*.h' | xargs .venv/bin/clang-format -i

## What clang-format would change in the lines that differ from BASE (main).
check-format:
	scripts/bootstrap.sh --tests
	.venv/bin/git-clang-format --binary .venv/bin/clang-format --extensions cc,h --diff $(or $(BASE),main)

## The program, and the library with its headers (examples/README.md).
install: build
	cmake --build $(BUILD) --target fpsa_library -j $(JOBS)
	cmake --install $(BUILD) --prefix $(or $(PREFIX),$(CURDIR)/install)

## The Python package, built as a wheel and checked in a fresh environment.
wheel:
	scripts/bootstrap.sh
	scripts/check_wheel.sh

clean:
	rm -rf build out
