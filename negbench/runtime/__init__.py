"""This machine: devices, ranks, failures, signals, memory, seeds. Imports nothing else of negbench."""
