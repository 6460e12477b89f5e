"""`python -m topoprune_jax` is the command `topoprune`."""

from .cli import main

if __name__ == "__main__":
    main()
