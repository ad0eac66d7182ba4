"""File containers that are not trusted: their size is bounded before memory is allocated, nothing is unpickled."""
