"""Stages that sleep in place of their work; their plans, records, summaries and files beside the shards are the real
ones."""
