"""The command line. No other part of splax knows its options."""
