"""Which loss, temperature, bias and tuned parts train MuMIC best: the parts of ``ablation.py``."""
