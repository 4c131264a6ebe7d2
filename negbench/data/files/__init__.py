"""Images in files: listed, packed and decoded."""
