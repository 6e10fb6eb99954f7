"""Networks: written for one observation, mapped over batches and along time."""
