"""The parts of the report page: charts, pictures, and the facts that each section shows."""
