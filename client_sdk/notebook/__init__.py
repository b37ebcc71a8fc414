"""What a notebook shows: live rounds and runs, the operators' objects, and progress."""
