"""Which values an fx graph writes to, which share memory, and how they lie in it."""
