"""What the backend does for training under a process group: in its graphs, and outside of them."""
