"""Published customization benchmarks, read from their own folder layouts."""
