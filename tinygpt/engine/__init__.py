"""What is fast and no lesson: splitting text, counting on all cores, the loss in chunks."""
