"""`syncd audit`: questions about datasets and checkpoints, answered from their records."""
