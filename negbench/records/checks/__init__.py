"""Whether records are true: digests, consistency, bundles, and runs that were repeated. Imports no torch."""
