"""Checkpoints of language models: opened in the layouts they are published in, and quantized."""
