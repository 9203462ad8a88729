"""What code does that runs with symbols: whether it may have looked at one."""
