"""One thread: the tensors are tiny, and tests that start several processes would otherwise fight over the cores."""

import torch

torch.set_num_threads(1)
