"""The graphs that ops of an fx graph run: branches, loop bodies, checkpointed blocks, regions."""
