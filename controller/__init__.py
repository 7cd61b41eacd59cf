"""The control plane: evidence in, decisions and routes out."""
