"""Asking questions about regions: text, images and regions in, answers out."""

from pvit_ext.hosts.image_features import ImageFeatures
from pvit_ext.inference.asking import ask, generate_options
from pvit_ext.inference.scoring import Score, score
from pvit_ext.inference.session import check_encoder, one_batch, shared_images
from pvit_ext.tokens.query import Query

__all__ = [
    "ImageFeatures",
    "Query",
    "Score",
    "ask",
    "check_encoder",
    "generate_options",
    "one_batch",
    "score",
    "shared_images",
]
