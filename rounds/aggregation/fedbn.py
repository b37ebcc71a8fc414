"""Federated averaging with batch normalization that stays at home.

Li, Jiang, Zhang, Kamp and Dou 2021, *FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization*, arXiv 2102.07623, algorithm 1: all weights but those of batch normalization are
averaged as in FedAvg,

    w ← w + Σ n_k Δ_k / Σ n_k

and those of batch normalization, each participant's own, never travel. Here that is a matter of
the model, whose weights of batch normalization have the role `local`; what is folded holds none
of them, and a run of a model where it would is refused. The paper averages without weights;
samples weigh here as in FedAvg.
"""

from dataclasses import dataclass
from typing import ClassVar

from rounds.aggregation.fedavg import FedAvg


@dataclass(frozen=True, slots=True)
class FedBN(FedAvg):
    """FedAvg of a model whose batch normalization is local to each participant."""

    title: ClassVar[str] = "FedBN"
    about: ClassVar[str] = (
        "FedAvg in which each participant keeps its own batch normalization: for inputs that "
        "look different everywhere, such as another camera or scanner."
    )
    paper: ClassVar[str] = (
        "Li et al. 2021, FedBN: Federated Learning on Non-IID Features via Local Batch "
        "Normalization, arXiv 2102.07623"
    )
    family: ClassVar[str] = "drift"
