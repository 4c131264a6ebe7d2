"""negbench: where should the negatives of contrastive learning come from, what does each source buy and cost?"""

__version__ = "0.1.0"
