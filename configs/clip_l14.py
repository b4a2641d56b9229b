"""CLIP ViT-L/14 by OpenAI's recipe: configs/clip_b32.py on a larger scale (appendix F, table 20)."""

import dataclasses

from configs import clip_b32
from mmjax.sharding import MeshShape


def get_config():
    cfg = clip_b32.get_config(model="CLIP L/14", lr=4e-4, remat="full")
    return dataclasses.replace(cfg, mesh=MeshShape(data=1, fsdp=-1))
