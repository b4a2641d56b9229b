"""CLIP ViT-B/16 by OpenAI's recipe: configs/clip_b32.py with smaller patches (appendix F, table 20)."""

from configs import clip_b32


def get_config():
    return clip_b32.get_config(model="CLIP B/16", lr=5e-4, remat="dots")
