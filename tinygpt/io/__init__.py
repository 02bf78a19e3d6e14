"""What touches disk or network: corpora, token files, tokenizers, weights, checkpoints, runs and their logs."""
