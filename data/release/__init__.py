"""What a published dataset and a checkpoint say of themselves: licence, credit, metadata, cards, marks in images."""
