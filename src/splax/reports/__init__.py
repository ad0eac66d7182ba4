"""What a run leaves for people to look at: pictures, curves, films, event files."""
