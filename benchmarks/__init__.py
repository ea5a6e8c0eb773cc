"""Speed and memory of riafs beside its peers, measured in one run: ``python -m benchmarks``. See README.md."""
