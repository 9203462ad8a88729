"""What pictures of a TVM function show, as data."""
