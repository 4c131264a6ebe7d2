"""Studies: small YAML files of differences from the defaults."""
