"""The audit store: Parquet tables of every dataset and checkpoint that was published, and questions in SQL."""
