"""Log-probabilities of tokens from their scores."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from dgemma_model.network.passes import native
from dgemma_model.network.passes.structures import Scores
from dgemma_model.network.threads import THREADS


def to_log_probabilities(scores: Tensor) -> Tensor:
    """Turn float32 scores [n, V] of tokens into their log-probabilities, in place, and return them. Scores that were
    made in inference mode may be given outside of it.

    In place, because memory that comes fresh from the system takes longer than what is done with it.
    """
    library = native.library() if scores.device.type == "cpu" and scores.is_contiguous() else None
    with THREADS.chosen(len(scores)) if len(scores) > 1 else nullcontext():
        if library is None or scores.dtype != torch.float32:
            with torch.inference_mode():
                return scores.sub_(scores.logsumexp(-1, keepdim=True))
        library.call("dgemma_normalise", Scores(scores.data_ptr(), *scores.shape))
    return scores
