"""How a run gets its processes: on this machine, or as a job of a cluster."""
