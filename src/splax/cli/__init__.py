"""The command line. Nothing below it knows of its options."""
