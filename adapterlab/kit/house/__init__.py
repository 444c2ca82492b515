"""Nine on one task within a budget: the rows to beat, how they were trained, and the sealed split."""
