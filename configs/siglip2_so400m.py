"""The sigmoid part of SigLIP 2 So400m/16: Tschannen et al. 2025, arXiv:2502.14786, section 2.2.

40 billion pairs. The captioning and self-distillation that the paper trains beside it are not part of this.
"""

import dataclasses

from configs import siglip_b16
from mmjax.optim import AdamW
from mmjax.sharding import MeshShape


def get_config():
    cfg = siglip_b16.get_config(model="SigLIP2 So400m/16", pairs=40e9, remat="full")
    optim = dataclasses.replace(cfg.optim, rule=AdamW(b1=0.9, b2=0.95))
    return dataclasses.replace(cfg, optim=optim, mesh=MeshShape(data=1, fsdp=-1))
