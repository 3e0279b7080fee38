"""What the evaluate stage is made of: subjects, rows, scores."""
