"""Benchmarks: dreams beside the emulator, long dreams, and the parts of training."""
