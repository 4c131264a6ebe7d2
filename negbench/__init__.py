"""negbench: where should the negatives of contrastive learning come from, what does each source buy and cost?"""

__version__ = "0.1.0"
RESULTS_VERSION = 2  # raised by each entry of CHANGELOG.md that is marked **results**; recorded in environment.json
