"""One thread for torch in each worker: the workers share the processor already."""

import torch

torch.set_num_threads(1)
