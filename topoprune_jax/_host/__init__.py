"""What runs on the host, in NumPy and gudhi alone: nothing in here knows of JAX."""
