"""Containers that strangers send: bounded in size before anything is allocated, and never unpickled."""
