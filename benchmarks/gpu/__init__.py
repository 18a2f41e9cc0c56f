"""The check of a machine with GPUs: numbers, memory, speed and host waits (`python -m benchmarks.gpu`)."""
