"""`negbench bench`: what a step of each method costs, by its parts, beside a bare step."""
