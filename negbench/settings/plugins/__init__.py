"""Plug-ins: where each kind is found, its facts, and the code of methods."""
