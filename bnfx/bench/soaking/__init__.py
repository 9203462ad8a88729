"""What the soak writes, judges and counts."""
