"""Which parts of CMA-CLIP earn their place: the parts of ``cma_ablation.py``."""
