"""`python -m negbench.cli`: how launchers start negbench."""

from negbench.cli.main import main

main()
