"""What is known of torch's ops, each once, whatever way a graph writes them."""
