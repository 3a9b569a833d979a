"""What all Python tests share: where workers of pytest-xdist share the processors, each computes with one thread."""

import os

# Read by libgomp when torch is loaded, so before any test file is. The programs that tests start inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
